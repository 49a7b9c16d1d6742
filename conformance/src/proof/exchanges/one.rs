//! The client that speaks HTTP/1.

use std::time::Duration;

use crate::client::{Offer, head};
use crate::message::parse_head;
use crate::proof::chance::Compared;
use crate::{Server, Wire};

use super::backend::{read, send};
use super::{Framing, Plan, Run};

/// One exchange after the other on one connection, for as long as it is kept.
pub fn converse(run: &Run<'_>, server: &Server, is_secure: bool, plans: &[Plan]) {
    let how = if is_secure { "HTTP/1 over TLS" } else { "HTTP/1" };
    let connect = || {
        let wire = server.connect(usize::from(is_secure));
        let mut wire = if is_secure { wire.start_tls(&Offer::name("a.example")) } else { wire };
        wire.set_patience(Duration::from_secs(120));
        wire
    };
    let mut wire = connect();
    for plan in plans {
        let result = exchange(&mut wire, plan.clone());
        let is_over = !matches!(result, Ok(true));
        run.note(plan, how, result.map(|_| ()));
        if is_over {
            wire = connect();
        }
    }
}

/// Whether the connection is kept.
fn exchange(wire: &mut Wire, mut plan: Plan) -> Result<bool, String> {
    let failed = |error: std::io::Error| format!("client: {error}");
    let (target, length) = (plan.target(), format!("Content-Length: {}", plan.up.length));
    let (method, framing) = match plan.up_framing {
        _ if plan.up.length == 0 => ("GET", None),
        Framing::Length | Framing::Close => ("POST", Some(length.as_str())),
        Framing::Chunked => ("POST", Some("Transfer-Encoding: chunked")),
    };
    wire.try_send(head(method, &target, framing.as_slice())).map_err(failed)?;
    if plan.up.length > 0 {
        send(wire, plan.up, plan.up_framing, &mut plan.client).map_err(failed)?;
    }
    let head = wire.try_head().map_err(failed)?.ok_or("no answer")?;
    let (first, fields) = parse_head(&head);
    if !first.starts_with("HTTP/1.1 200") {
        let mut text = Vec::new();
        let _ = read(wire, &fields, |bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        });
        return Err(format!("{first}: {}", String::from_utf8_lossy(&text)));
    }
    if fields.get("X-Exchange") != Some(&*plan.number.to_string()) {
        return Err(format!("the answer of {:?}", fields.get("X-Exchange")));
    }
    let mut body = Compared::with(plan.down);
    let mut chance = plan.client;
    read(wire, &fields, |bytes| {
        if chance.once_in(200) {
            std::thread::sleep(Duration::from_millis(chance.below(60)));
        }
        body.take(bytes)
    })?;
    body.end()?;
    Ok(fields.get("Connection") != Some("close"))
}
