//! What a user of the HTTP server sees.

use tidegate_conformance::Server;

#[test]
fn return_answers_with_a_text() {
    let server =
        Server::start("events {} http { server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 hello; } } }");
    let response = server.http(0).get("/");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
}
