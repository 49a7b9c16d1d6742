//! The HTTP service that mail asks about a login.

use crate::message::Request;

use super::http::{HttpBackend, Reply};

/// What the service says about a login.
#[derive(Debug, Clone)]
pub enum AuthAnswer {
    /// Go on with this backend.
    Backend {
        /// `127.0.0.1`
        server: String,
        /// Its port.
        port: u16,
        /// More header lines, such as `Auth-User: other`.
        lines: Vec<String>,
    },
    /// No, with this message, closing the session.
    Refuse(String),
    /// No, with this message, and another try after so many seconds.
    RefuseAfter(String, u32),
    /// Whatever else.
    Raw(Reply),
}

/// The service, and the questions it was asked.
#[derive(Debug)]
pub struct AuthHttp {
    http: HttpBackend,
}

impl AuthHttp {
    /// Answers every question as `judge` says; the question's header has `Auth-User`, `Auth-Pass` and so on.
    pub fn start(judge: impl Fn(&Request) -> AuthAnswer + Send + Sync + 'static) -> AuthHttp {
        AuthHttp { http: HttpBackend::start(move |request| reply(judge(request))) }
    }

    /// One user with one password, served by one backend; everybody else is refused and may try again.
    pub fn one_user(user: &'static str, password: &'static str, backend: u16) -> AuthHttp {
        AuthHttp::start(move |request| {
            if request.field("Auth-User") == user && request.field("Auth-Pass") == password {
                AuthAnswer::Backend { server: "127.0.0.1".to_owned(), port: backend, lines: Vec::new() }
            } else {
                AuthAnswer::RefuseAfter("Invalid login or password".to_owned(), 1)
            }
        })
    }

    /// Its address, as `auth_http` names it.
    pub fn address(&self) -> String {
        self.http.address()
    }

    /// Every question so far.
    pub fn questions(&self) -> Vec<Request> {
        self.http.requests()
    }
}

fn reply(answer: AuthAnswer) -> Reply {
    let lines = match answer {
        AuthAnswer::Raw(reply) => return reply,
        AuthAnswer::Backend { server, port, lines } => {
            let mut all =
                vec!["Auth-Status: OK".to_owned(), format!("Auth-Server: {server}"), format!("Auth-Port: {port}")];
            all.extend(lines);
            all
        }
        AuthAnswer::Refuse(message) => vec![format!("Auth-Status: {message}")],
        AuthAnswer::RefuseAfter(message, wait) => {
            vec![format!("Auth-Status: {message}"), format!("Auth-Wait: {wait}")]
        }
    };
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Reply::status("200 OK", &lines, "").closing()
}
