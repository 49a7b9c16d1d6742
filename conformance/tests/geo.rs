//! Variables by address and by share: `geo` and `split_clients`, of http and of stream.

use tidegate_conformance::client::Wire;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, Setup};

const BLOCKS: &str = "
    geo $arg_ip $net { default none; 10.0.0.0/8 wide; 10.1.0.0/16 narrow; 10.1.2.3 one; 0.0.0.0/1 low; 2001:db8::/32 six;
        2001:db8:1::/48 inner; 172.16.0.0/12 gone; delete 172.16.0.0/12; include more.conf; 255.255.255.255 nowhere; }
    geo $arg_ip $plain { 192.0.2.0/24 test; }
    geo $arg_ip $range { ranges; default none; 10.0.0.0-10.0.0.255 all; 10.0.0.10-10.0.0.19 part; 10.0.0.10-10.0.0.10 one;
        10.9.0.0-10.12.255.255 long; delete 10.10.0.0-10.11.255.255; delete 10.0.0.10-10.0.0.10; }
    geo $client { 127.0.0.0/8 here; default elsewhere; }
    geo $once { default none; proxy 127.0.0.1; 10.0.0.0/8 ten; 192.0.2.0/24 test; }
    geo $all { default none; proxy_recursive; proxy 127.0.0.0/8; proxy 10.0.0.0/8; 10.0.0.0/8 ten; 192.0.2.0/24 test; }
    geo $arg_ip $often { volatile; 10.0.0.0/8 ten; default none; }
    split_clients $arg_ip $third { 33.3% first; 33.3% second; * third; }
    split_clients $arg_ip $some { 0.01% rare; 50% half; }
    split_clients $arg_ip $everybody { 100% everybody; }
";

fn http() -> Setup {
    Server::config(&format!(
        "events {{}} http {{ access_log off; {BLOCKS} server {{ listen 127.0.0.1:%%PORT_0%%;
           location / {{ return 200 '$net $plain $range $client $once $all'; }} location /share {{ return 200 '$third $some $everybody'; }}
           location /often {{ set $first $often; set $args ip=11.0.0.1; return 200 '$first $often $client'; }} }} }}"
    ))
    .file("more.conf", "198.51.100.0/24 included;\n")
}

#[test]
fn values_are_looked_up_by_address() {
    let server = http().start();
    for (ip, net, plain, range) in [
        ("10.1.2.3", "one", "", "none"),
        ("10.1.2.4", "narrow", "", "none"),
        ("10.2.0.0", "wide", "", "none"),
        ("10.255.255.255", "wide", "", "none"),
        ("11.0.0.0", "low", "", "none"),
        ("128.0.0.0", "none", "", "none"),
        ("172.16.0.1", "none", "", "none"),
        ("198.51.100.7", "included", "", "none"),
        ("192.0.2.1", "none", "test", "none"),
        ("192.0.3.1", "none", "", "none"),
        ("2001:db8::1", "six", "", "none"),
        ("2001:db8:1::1", "inner", "", "none"),
        ("2001:db9::1", "none", "", "none"),
        ("::ffff:10.1.2.3", "one", "", "none"),
        ("nonsense", "nowhere", "", "none"),
        ("", "nowhere", "", "none"),
        ("10.0.0.0", "wide", "", "all"),
        ("10.0.0.9", "wide", "", "all"),
        ("10.0.0.10", "wide", "", "none"),
        ("10.0.0.11", "wide", "", "part"),
        ("10.0.0.19", "wide", "", "part"),
        ("10.0.0.20", "wide", "", "all"),
        ("10.0.1.0", "wide", "", "none"),
        ("10.9.0.0", "wide", "", "long"),
        ("10.10.0.0", "wide", "", "none"),
        ("10.11.255.255", "wide", "", "none"),
        ("10.12.0.0", "wide", "", "long"),
    ] {
        let text = server.http(0).get(&format!("/?ip={ip}")).text();
        assert_eq!(text, format!("{net} {plain} {range} here none none"), "{ip}");
    }
}

#[test]
fn proxies_speak_for_their_clients() {
    let server = http().start();
    for (lines, once, all) in [
        (&[][..], "none", "none"),
        (&["X-Forwarded-For: 192.0.2.1"][..], "test", "test"),
        (&["X-Forwarded-For: 192.0.2.1, 10.0.0.1"], "ten", "test"),
        (&["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 10.0.0.1"], "ten", "test"),
        (&["X-Forwarded-For: 192.0.2.1, unknown, 10.0.0.1"], "ten", "ten"),
        (&["X-Forwarded-For: 10.0.0.2, 192.0.2.1"], "test", "test"),
        (&["X-Forwarded-For: unknown"], "none", "none"),
        (&["X-Forwarded-For: 192.0.2.1:8080"], "test", "test"),
    ] {
        let text = server.http(0).ask("GET", "/", lines).text();
        let mut words = text.rsplit(' ');
        assert_eq!((words.next(), words.next()), (Some(all), Some(once)), "{lines:?}");
    }
    assert_eq!(server.http(0).get("/often?ip=10.0.0.1").text(), "ten none here");
}

/// The same clients get the same share as from nginx.
#[test]
fn clients_are_split_as_by_nginx() {
    let server = http().start();
    let shares = |ip: &str| server.http(0).get(&format!("/share?ip={ip}")).text();
    for (ip, expected) in [
        ("", "first rare everybody"),
        ("a", "second  everybody"),
        ("b", "second  everybody"),
        ("client", "second half everybody"),
        ("10.0.0.1", "second  everybody"),
        ("10.0.0.3", "first half everybody"),
        ("example.com", "first half everybody"),
    ] {
        assert_eq!(shares(ip), expected, "{ip}");
    }
}

#[test]
fn streams_have_them_too() {
    let server = Server::start(
        "events {} stream { geo $client { 127.0.0.0/8 here; default elsewhere; } geo $remote_addr $same { ranges; 127.0.0.1-127.0.0.1 one; }
         split_clients $remote_addr $share { 40% first; * second; }
         server { listen 127.0.0.1:%%PORT_0%%; return '$client $same $share'; } }",
    );
    let mut wire: Wire = server.connect(0);
    assert_eq!(String::from_utf8_lossy(&wire.rest()), "here one second");
}

#[test]
fn mistakes_are_told() {
    for (block, message) in [
        ("geo x { }", "invalid variable name \"x\""),
        ("geo $a b { }", "invalid variable name \"b\""),
        ("geo $g { 10.0.0.0/33 x; }", "invalid network \"10.0.0.0/33\""),
        ("geo $g { nowhere x; }", "invalid network \"nowhere\""),
        ("geo $g { delete nowhere; }", "invalid network \"nowhere\""),
        ("geo $g { proxy x; }", "invalid network \"x\""),
        ("geo $g { 10.0.0.0/8; }", "invalid number of the geo parameters"),
        ("geo $g { 10.0.0.0/8 a b; }", "invalid number of the geo parameters"),
        (
            "geo $g { 10.0.0.0/8 x; ranges; }",
            "the \"ranges\" directive must be the first directive inside \"geo\" block",
        ),
        ("geo $g { ranges; 10.0.0.0/8 x; }", "invalid range \"10.0.0.0/8\""),
        ("geo $g { ranges; 10.0.0.2-10.0.0.1 x; }", "invalid range \"10.0.0.2-10.0.0.1\""),
        (
            "geo $g { ranges; 10.0.0.1-10.0.0.9 x; 10.0.0.5-10.0.0.20 y; }",
            "range \"10.0.0.5-10.0.0.20\" overlaps \"10.0.0.1-10.0.0.9\"",
        ),
        ("geo $g { ranges; 10.0.0.1-255.255.255.255 x; }", "invalid range \"10.0.0.1-255.255.255.255\""),
        ("geo $uri { default x; }", "the duplicate \"uri\" variable"),
        ("split_clients x y { }", "invalid variable name \"y\""),
        ("split_clients x $s { 60% a; 50% b; }", "percent total is greater than 100%"),
        ("split_clients x $s { 60 a; }", "invalid percent value \"60\""),
        ("split_clients x $s { 0% a; }", "invalid percent value \"0%\""),
    ] {
        let outcome = Server::config(&format!(
            "events {{}} http {{ {block} server {{ listen 127.0.0.1:%%PORT_0%%; return 200 $g$s; }} geo $g$s {{}} }}"
        ))
        .run(&["-t"]);
        assert!(outcome.stderr.contains(message), "{block}: {}", outcome.stderr);
    }
    if skip_on_nginx("it says what the new value is as well") {
        return;
    }
    for (block, warning) in [
        ("geo $g { 10.0.0.0/8 a; 10.0.0.0/8 b; }", "duplicate network \"10.0.0.0/8\", old value: \"a\""),
        ("geo $g { 10.0.0.1/8 a; }", "low address bits of 10.0.0.1/8 are meaningless"),
        ("geo $g { delete 10.0.0.0/8; }", "no network \"10.0.0.0/8\" to delete"),
        ("geo $g { ranges; delete 10.0.0.0-10.0.0.1; }", "no address range \"10.0.0.0-10.0.0.1\" to delete"),
        ("geo $g { default a; default b; }", "duplicate \"default\", old value: \"a\""),
    ] {
        let outcome =
            Server::config(&format!("events {{}} http {{ {block} server {{ return 200 $g; }} }}")).run(&["-t"]);
        assert!(outcome.status.success() && outcome.stderr.contains(warning), "{block}: {}", outcome.stderr);
    }
}

/// As many networks as a whole table of the Internet has are read in a bounded time.
#[test]
fn a_hundred_thousand_networks_load() {
    let networks: String = (0..100_000u32)
        .map(|at| format!("{}/{} n{};\n", std::net::Ipv4Addr::from_bits((at << 12) | (1 << 31)), 20 + at % 9, at % 100))
        .collect();
    let server = Server::config(
        "events {} http { access_log off; geo $arg_ip $net { default none; include networks.conf; }
         server { listen 127.0.0.1:%%PORT_0%%; return 200 $net; } }",
    )
    .file("networks.conf", networks)
    .start();
    for at in [0u32, 1, 77, 99_999] {
        let ip = std::net::Ipv4Addr::from_bits((at << 12) | (1 << 31));
        assert_eq!(server.http(0).get(&format!("/?ip={ip}")).text(), format!("n{}", at % 100));
    }
    assert_eq!(server.http(0).get("/?ip=1.2.3.4").text(), "none");
}
