//! The challenge of CRAM-MD5: unlike any other, and nobody can guess the next.

use std::io;

use bytes::Bytes;
use tidegate_core::{chance, clock};

/// `<random.time@server_name>`, drawn in the worker for one connection.
///
/// # Errors
/// There is no randomness to be had.
pub fn draw(server_name: &str) -> io::Result<Bytes> {
    Ok(Bytes::from(format!("<{}.{}@{server_name}>", chance::number()?, clock::seconds())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_a_message_id_of_its_own() {
        let (one, two) = (draw("mail.example").unwrap(), draw("mail.example").unwrap());
        assert_ne!(one, two);
        assert!(one.starts_with(b"<") && one.ends_with(b"@mail.example>"), "{one:?}");
    }
}
