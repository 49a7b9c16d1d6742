//! The little of DER that has to be understood here: where a value ends, and what is inside of it.

/// The length of the value at the beginning, with its own head.
pub fn length(der: &[u8]) -> Option<usize> {
    let (head, inside) = head(der)?;
    Some(head.checked_add(inside)?).filter(|length| *length <= der.len())
}

/// The content of the value that the bytes begin with.
pub fn inside(der: &[u8]) -> Option<&[u8]> {
    let (head, inside) = head(der)?;
    der.get(head..head.checked_add(inside)?)
}

/// The lengths of a value's head and of what is inside.
fn head(der: &[u8]) -> Option<(usize, usize)> {
    let first = *der.get(1)?;
    if first < 0x80 {
        return Some((2, usize::from(first)));
    }
    let octets = der.get(2..2 + usize::from(first & 0x7f)).filter(|octets| (1..=4).contains(&octets.len()))?;
    let length = octets.iter().fold(0_usize, |length, octet| (length << 8) | usize::from(*octet));
    Some((2 + octets.len(), length))
}

/// A value of this kind.
pub fn value(tag: u8, inside: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = inside.len().to_be_bytes();
    let short: Vec<u8> = length.into_iter().skip_while(|octet| *octet == 0).collect();
    match (short.as_slice(), u8::try_from(short.len())) {
        ([], _) => out.push(0),
        ([one], _) if *one < 0x80 => out.push(*one),
        (_, Ok(count)) => {
            out.push(0x80 | count);
            out.extend(&short);
        }
        // A length of more than 127 octets: there is no such value in memory.
        (_, Err(_)) => {}
    }
    out.extend(inside);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (der, expected) in [
            (&[0x30, 2, 1, 2, 9, 9][..], Some(4)),
            (&[0x30, 0], Some(2)),
            (&[0x30, 0x81, 3, 1, 2, 3], Some(6)),
            (&[0x30, 0x82, 0, 1, 7], Some(5)),
            (&[0x30, 5, 1], None),
            (&[0x30, 0x80, 0, 0], None),
            (&[0x30], None),
            (&[], None),
        ] {
            assert_eq!(length(der), expected, "{der:?}");
        }
        for count in [0, 1, 127, 128, 255, 256, 70_000] {
            let made = value(4, &vec![7; count]);
            assert_eq!((length(&made), inside(&made).map(<[u8]>::len)), (Some(made.len()), Some(count)));
        }
    }
}
