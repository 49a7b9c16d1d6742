//! The example configurations do what their READMEs say.

use std::fs;
use std::process::Command;

use tidegate_conformance::binary::{self, workspace};
use tidegate_conformance::peers::find;
use tidegate_conformance::{Port, Server, wait_until};

#[test]
fn the_gateway_serves_http_tcp_and_mail() {
    let text = fs::read_to_string(workspace().join("examples/gateway/nginx.conf")).unwrap();
    let ports = ["8080", "8081", "8082", "8083", "8090", "8143"];
    let text = ports.iter().enumerate().fold(text, |text, (index, port)| {
        text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:%%PORT_{index}%%"))
    });
    let text =
        text.replace("pid gateway.pid;", "pid nginx.pid;").replace("access_log /dev/stdout;", "access_log access.log;");
    let server = Server::config(&text).bare().start();

    let answers: Vec<String> = (0..8).map(|_| server.http(0).get("/").text()).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == "first\n").count(), 6, "{answers:?}");
    assert_eq!(server.http(4).get("/").status, 200);
    let mut mail = server.connect(5);
    assert!(mail.line().starts_with("* OK"));
    assert_eq!(mail.ask("a LOGIN alice wrong"), "a NO Invalid login or password");
}

#[test]
fn the_database_example_survives_the_loss_of_the_primary() {
    if find("redis-server").is_some() && find("redis-cli").is_some() {
        assert_script_succeeds("examples/database/run.sh");
    }
}

#[test]
fn the_mail_example_serves_a_mail_program() {
    if find("dovecot").is_some() && find("openssl").is_some() && find("python3").is_some() {
        assert_script_succeeds("examples/mail/run.sh");
    }
}

/// Runs a script on three free ports in a row.
fn assert_script_succeeds(script: &str) {
    let ports = wait_until("three ports in a row", || {
        let ports = [Port::claim(), Port::claim(), Port::claim()];
        let first = ports[0].number();
        (ports[1].number() == first + 1 && ports[2].number() == first + 2).then_some(ports)
    });
    let output = Command::new(workspace().join(script))
        .arg(binary::path())
        .env("BASE_PORT", ports[0].number().to_string())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.lines().any(|line| line == "OK"), "{text}");
}
