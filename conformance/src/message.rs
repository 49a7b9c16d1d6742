//! HTTP/1 messages as a test sees them: forgiving, complete, and with the raw head kept.

/// Header lines in the order received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The first field of this name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every field of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    fn is_chunked(&self) -> bool {
        self.get("Transfer-Encoding").is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"))
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `HTTP/1.1`
    pub version: String,
    /// `200`
    pub status: u16,
    /// `OK`
    pub reason: String,
    /// The header.
    pub fields: Fields,
    /// The body, with the chunked coding taken off.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of this name, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or("")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the server wants to keep the connection.
    pub fn keeps_alive(&self) -> bool {
        if self.version == "HTTP/1.0" {
            self.fields.has_token("Connection", "keep-alive")
        } else {
            !self.fields.has_token("Connection", "close")
        }
    }
}

/// What a backend was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// `/path?query`
    pub target: String,
    /// `HTTP/1.1`
    pub version: String,
    /// The header.
    pub fields: Fields,
    /// The body, with the chunked coding taken off.
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// Which request of its connection it is, counted from 0.
    pub number: usize,
}

impl Request {
    /// The first field of this name, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or("")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the client wants to keep the connection.
    pub fn keeps_alive(&self) -> bool {
        if self.version == "HTTP/1.0" {
            self.fields.has_token("Connection", "keep-alive")
        } else {
            !self.fields.has_token("Connection", "close")
        }
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(usize),
    /// By the chunked coding.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// How the body of a response ends, given the method that was asked with.
pub fn response_framing(method: &str, status: u16, fields: &Fields) -> Framing {
    if method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status) {
        Framing::None
    } else if fields.is_chunked() {
        Framing::Chunked
    } else if let Some(length) = fields.get("Content-Length").and_then(|length| length.parse().ok()) {
        Framing::Length(length)
    } else {
        Framing::Close
    }
}

/// How the body of a request ends.
pub fn request_framing(fields: &Fields) -> Framing {
    if fields.is_chunked() {
        Framing::Chunked
    } else if let Some(length) = fields.get("Content-Length").and_then(|length| length.parse().ok()) {
        Framing::Length(length)
    } else {
        Framing::None
    }
}

/// Splits a head into its first line and its fields.
pub fn parse_head(head: &[u8]) -> (String, Fields) {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("").to_owned();
    let fields = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    (first, Fields(fields))
}
