//! Certificates and keys as people have them, and server names as clients send them. Needs openssl(1).

use std::path::Path;
use std::process::{Command, Stdio};

use tidegate_conformance::{Certificate, Server};

/// Runs openssl(1) in a folder; `None`, saying so, where it is not installed.
fn openssl(folder: &Path, arguments: &str) -> Option<String> {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null()).output();
    match output {
        Ok(output) => Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
        Err(_) => {
            println!("skipped: needs openssl(1)");
            None
        }
    }
}

/// What a client is told of the server's signature, or of why there is none.
fn greet(server: &Server, index: usize, more: &str) -> Option<String> {
    openssl(server.folder(), &format!("s_client -connect {} {more}", server.address(index)))
}

const CONFIGURATION: &str = "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%% ssl; \
     ssl_certificate %%DIR%%/c.crt; ssl_certificate_key %%DIR%%/c.key; return 200; } }";

#[test]
fn certificates_and_keys_come_in_many_forms() {
    let own = Certificate::for_names(&["a.example"]);
    let with_mark = |text: &str| format!("\u{feff}{text}");
    let with_returns = |text: &str| text.replace('\n', "\r\n");
    let renamed = |text: &str| text.replace(" CERTIFICATE-", " X509 CERTIFICATE-");
    let with_text = |text: &str| format!("Bag Attributes\n  name: x\nsubject=CN = x\n{text}more\n{text}\n");
    let with_blanks = |text: &str| text.replace('\n', "  \n");
    let (certificate, key) = (own.certificate.as_str(), own.key.as_str());
    for (certificate, key, what) in [
        (with_mark(certificate), key.to_owned(), "a byte order mark in front of the certificate"),
        (certificate.to_owned(), with_mark(key), "a byte order mark in front of the key"),
        (with_returns(certificate), with_returns(key), "carriage returns"),
        (renamed(certificate), key.to_owned(), "another name"),
        (with_text(certificate), with_text(key), "text around"),
        (with_blanks(certificate), key.to_owned(), "blanks at the ends of lines"),
        (certificate.trim_end().to_owned(), key.trim_end().to_owned(), "no last line end"),
        (format!("{key}{certificate}"), format!("{certificate}{key}"), "both in one file"),
    ] {
        let setup = Server::config(CONFIGURATION).file("c.crt", &certificate).file("c.key", &key);
        let server = setup.start();
        let Some(said) = greet(&server, 0, "-brief") else { return };
        assert!(said.contains("ECDSA"), "{what}: {said}");
    }
    for (certificate, key, why) in [
        ("", key, "cannot load certificate"),
        (certificate, "", "cannot load certificate key"),
        (certificate.split("-----END").next().unwrap_or_default(), key, "cannot load certificate"),
    ] {
        let outcome = Server::config(CONFIGURATION).file("c.crt", certificate).file("c.key", key).run(&["-t"]);
        assert!(!outcome.status.success() && outcome.stderr.contains(why), "{}", outcome.stderr);
    }
}

#[test]
fn a_certificate_may_say_what_it_is_trusted_for() {
    let own = Certificate::for_names(&["a.example"]);
    let setup = Server::config(CONFIGURATION).certificate("plain", &own).file("c.key", &own.key);
    let arguments = "x509 -in plain.crt -trustout -addtrust serverAuth -setalias x -out c.crt";
    if openssl(setup.folder(), arguments).is_none() {
        return;
    }
    let server = setup.start();
    assert!(server.read("c.crt").contains("BEGIN TRUSTED CERTIFICATE"));
    let said = greet(&server, 0, "-brief").unwrap_or_default();
    assert!(said.contains("ECDSA"), "{said}");
}

/// Such keys sign with the schemes that are their own, and with the hash that they are bound to.
#[test]
fn keys_for_rsa_pss_alone_sign() {
    let bound = |hash: &str, salt: u8| {
        format!(
            " -pkeyopt rsa_pss_keygen_md:{hash} -pkeyopt rsa_pss_keygen_mgf1_md:{hash} -pkeyopt rsa_pss_keygen_saltlen:{salt}"
        )
    };
    for (options, request, digest) in [
        (String::new(), "", "SHA256"),
        (bound("sha256", 32), "", "SHA256"),
        (bound("sha384", 48), " -sha384", "SHA384"),
        (bound("sha512", 64), " -sha512", "SHA512"),
    ] {
        let setup = Server::config(CONFIGURATION);
        let made = openssl(
            setup.folder(),
            &format!("genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048{options} -out c.key"),
        );
        if made.is_none() {
            return;
        }
        openssl(setup.folder(), &format!("req -x509 -new -key c.key -subj /CN=a.example -days 9 -out c.crt{request}"));
        let server = setup.start();
        for version in ["-tls1_2", "-tls1_3"] {
            let said = greet(&server, 0, version).unwrap_or_default();
            assert!(said.contains("Peer signature type: RSA-PSS"), "{digest} {version}: {said}");
            assert!(said.contains(&format!("Peer signing digest: {digest}")), "{digest} {version}: {said}");
        }
    }
}

/// Who answers clients that ask for what is no host name: the server that the host in it names, else the default one.
#[test]
fn server_names_that_are_no_host_names_are_answered() {
    let setup = Server::config(
        "events {} http { access_log off; ssl_certificate_key %%DIR%%/c.key; ssl_certificate %%DIR%%/c.crt; \
         server { listen 127.0.0.1:%%PORT_0%% ssl; return 200 'default $ssl_server_name'; } \
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name a.example a_b; ssl_certificate_key %%DIR%%/d.key; \
         ssl_certificate %%DIR%%/d.crt; return 200 'named $ssl_server_name'; } }",
    );
    let server = setup
        .certificate("c", &Certificate::for_names(&["default"]))
        .certificate("d", &Certificate::for_names(&["named"]))
        .start();
    let long = format!("{}.example", "a".repeat(64));
    for (name, is_named) in [
        ("a.example", true),
        ("A.EXAMPLE", true),
        ("a.example:443", true),
        ("a.example.", true),
        ("a_b", true),
        ("a.example..", false),
        ("a..example", false),
        ("x..y", false),
        ("[::1]", false),
        ("::1", false),
        ("127.0.0.1", false),
        ("a/b", false),
        ("-a.example-", false),
        ("*.example", false),
        (".a.example", false),
        ("a%41", false),
        (long.as_str(), false),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let Some(said) = greet(&server, 0, &format!("{version} -showcerts -servername {name}")) else { return };
            assert!(said.contains("Verify return code"), "{name} {version}: {said}");
            let ours = server.read(if is_named { "d.crt" } else { "c.crt" });
            let line = ours.lines().nth(3).unwrap_or("no certificate");
            assert!(said.contains(line), "{name} {version} is answered by another server: {said}");
        }
    }
    // And what comes behind the handshake can be read by both.
    let request = "GET / HTTP/1.0\r\n\r\n";
    for name in ["x..y", "a:443", "[::1]"] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-ign_eof", "-connect", &server.address(0), "-servername", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        std::io::Write::write_all(client.stdin.as_mut().expect("its input"), request.as_bytes()).expect("it reads");
        let output = client.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("default {name}")), "{name}: {text}");
    }
}
