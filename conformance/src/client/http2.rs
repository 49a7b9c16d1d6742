//! A client of HTTP/2 that behaves, on the library that the server has too.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::message::{Fields, Response};
use crate::wait::PATIENCE;

use super::tls::Offer;

/// A connection, and the loop that runs it while one of these functions does.
#[derive(Debug)]
pub struct Http2 {
    /// Opens streams.
    pub send: SendRequest<Bytes>,
    /// Ends when the connection does.
    pub connection: JoinHandle<Result<(), h2::Error>>,
    runtime: Runtime,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The answer, with names in lower case.
    pub response: Response,
    /// What followed the body.
    pub trailers: Fields,
}

/// What a request carries.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// The body, unless there is none.
    pub bytes: Option<Bytes>,
    /// What follows it.
    pub trailers: Option<HeaderMap>,
}

impl Http2 {
    /// Speaks in clear, by prior knowledge.
    #[track_caller]
    pub fn connect(port: u16) -> Http2 {
        Http2::with(port, None, &Builder::new()).unwrap_or_else(|error| panic!("HTTP/2 to {port}: {error}"))
    }

    /// Speaks under TLS, offering `h2`.
    #[track_caller]
    pub fn secure(port: u16, name: &str) -> Http2 {
        let offer = Offer::name(name).alpn(&["h2"]);
        Http2::with(port, Some(&offer), &Builder::new()).unwrap_or_else(|error| panic!("HTTP/2 to {port}: {error}"))
    }

    /// Speaks with settings of its own.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn with(port: u16, offer: Option<&Offer>, builder: &Builder) -> Result<Http2, h2::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (send, connection) = runtime.block_on(open(port, offer, builder))?;
        Ok(Http2 { send, connection, runtime })
    }

    /// Runs something on the connection.
    ///
    /// # Panics
    /// It takes longer than anything should.
    #[track_caller]
    pub fn run<F: Future>(&mut self, work: impl FnOnce(SendRequest<Bytes>) -> F) -> F::Output {
        self.run_within(PATIENCE, work)
    }

    /// Runs something that takes its time on the connection.
    ///
    /// # Panics
    /// It takes longer than it may.
    #[track_caller]
    pub fn run_within<F: Future>(&mut self, limit: Duration, work: impl FnOnce(SendRequest<Bytes>) -> F) -> F::Output {
        let work = work(self.send.clone());
        let result = self.runtime.block_on(async { tokio::time::timeout(limit, work).await });
        result.unwrap_or_else(|_| panic!("waited {limit:?} in vain for HTTP/2"))
    }

    /// GET.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.ask("GET", target, &[])
    }

    /// Asks without a body, with more lines (`"Name: value"`).
    #[track_caller]
    pub fn ask(&mut self, method: &str, target: &str, lines: &[&str]) -> Response {
        self.whole(request(method, target, lines), Body::default()).response
    }

    /// Asks with a body whose length is not told.
    #[track_caller]
    pub fn post(&mut self, target: &str, body: impl Into<Bytes>, lines: &[&str]) -> Response {
        self.whole(request("POST", target, lines), Body { bytes: Some(body.into()), trailers: None }).response
    }

    /// Asks for a whole answer.
    #[track_caller]
    pub fn whole(&mut self, request: Request<()>, body: Body) -> Answer {
        self.attempt(request, body).unwrap_or_else(|error| panic!("an exchange of HTTP/2: {error}"))
    }

    /// Asks, or says why there is no whole answer.
    ///
    /// # Errors
    /// The stream was reset, or the connection ended.
    #[track_caller]
    pub fn attempt(&mut self, request: Request<()>, body: Body) -> Result<Answer, h2::Error> {
        self.run(async |send| exchange(send, request, body).await)
    }

    /// Waits until the connection has ended: in order, or not.
    #[track_caller]
    pub fn ended(&mut self) -> Result<(), h2::Error> {
        let Http2 { connection, runtime, .. } = self;
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, connection).await });
        ended.expect("the connection ends").expect("the loop runs")
    }

    /// Lets the connection run for a while, during which nothing is asked.
    pub fn rest_for(&mut self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }
}

async fn open(
    port: u16,
    offer: Option<&Offer>,
    builder: &Builder,
) -> Result<(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>), h2::Error> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(io_error)?;
    socket.set_nodelay(true).map_err(io_error)?;
    match offer {
        None => shake(socket, builder).await,
        Some(offer) => {
            let (name, config) = offer.parts();
            let stream = TlsConnector::from(config).connect(name, socket).await.map_err(io_error)?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the server chose another protocol");
            shake(stream, builder).await
        }
    }
}

async fn shake<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: T,
    builder: &Builder,
) -> Result<(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>), h2::Error> {
    let (send, connection) = builder.handshake(stream).await?;
    Ok((send, tokio::spawn(connection)))
}

fn io_error(error: io::Error) -> h2::Error {
    panic!("connect: {error}")
}

/// A request head for `localhost`, or for what an `:authority` line says.
pub fn request(method: &str, target: &str, lines: &[&str]) -> Request<()> {
    let pairs = lines.iter().filter_map(|line| line.rsplit_once(": ").map(|_| line.split_once(": ").expect("a line")));
    let authority = pairs.clone().find(|(name, _)| *name == ":authority").map_or("localhost", |(_, value)| value);
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut builder = Request::builder().method(method).uri(format!("http://{authority}{target}"));
    for (name, value) in pairs.filter(|(name, _)| !name.starts_with(':')) {
        builder = builder.header(name, value);
    }
    builder.body(()).expect("a request")
}

/// One exchange: sends the body while the answer comes.
///
/// # Errors
/// The stream was reset, or the connection ended.
pub async fn exchange(send: SendRequest<Bytes>, request: Request<()>, body: Body) -> Result<Answer, h2::Error> {
    let mut send = send.ready().await?;
    let is_bare = body.bytes.is_none() && body.trailers.is_none();
    let (response, stream) = send.send_request(request, is_bare)?;
    drop(send);
    let sending = async move {
        if !is_bare {
            // A server that answers early may stop the body: its answer is what matters.
            let _ = upload(stream, body).await;
        }
    };
    let (answer, ()) = join(read(response), sending).await;
    answer
}

async fn upload(mut stream: SendStream<Bytes>, body: Body) -> Result<(), h2::Error> {
    let mut bytes = body.bytes.unwrap_or_default();
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(0)) => {}
            Some(Ok(capacity)) => {
                let piece = bytes.split_to(capacity.min(bytes.len()));
                stream.send_data(piece, bytes.is_empty() && body.trailers.is_none())?;
            }
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
    match body.trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None if stream.capacity() == 0 => stream.send_data(Bytes::new(), true).or(Ok(())),
        None => Ok(()),
    }
}

/// Reads a whole answer.
async fn read(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = trailers(&mut stream).await?;
    let response = Response {
        version: "HTTP/2.0".to_owned(),
        status: parts.status.as_u16(),
        reason: String::new(),
        fields: fields(&parts.headers),
        body,
    };
    Ok(Answer { response, trailers })
}

async fn trailers(stream: &mut RecvStream) -> Result<Fields, h2::Error> {
    Ok(stream.trailers().await?.map(|map| fields(&map)).unwrap_or_default())
}

fn fields(map: &HeaderMap) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Fields(map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect())
}
