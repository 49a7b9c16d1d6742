//! A load of everyday work for a binary, so that the compiler can be told what is done often: `benches/pgo`.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Connections at once: all ask, then all read.
const CONNECTIONS: usize = 32;
/// How long the binary may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request of the load: the port's place, the request, and whether the connection ends with it.
struct Work {
    name: &'static str,
    stream: bool,
    request: String,
    closes: bool,
    rounds: usize,
}

fn work() -> Vec<Work> {
    let get = |path: &str, more: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
             Accept: text/html,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate\r\n{more}\r\n"
        )
    };
    let body = "x".repeat(2000);
    let post = format!("POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let chunked =
        format!("POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{body}\r\n0\r\n\r\n");
    let row = |name, request: String, rounds| Work { name, stream: false, request, closes: false, rounds };
    vec![
        row("proxied", get("/small", ""), 400),
        row("proxied, 100 kB", get("/large", ""), 40),
        row("return", get("/return", ""), 200),
        row("file", get("/1k.txt", ""), 200),
        row("file of 200 kB", get("/200k.txt", ""), 20),
        row("not modified", get("/1k.txt", "If-None-Match: *\r\n"), 40),
        row("not found", get("/none.txt?a=b", ""), 40),
        row("redirect", get("/old", ""), 40),
        row("body", post, 40),
        row("body in chunks", chunked, 40),
        Work { closes: true, ..row("proxied, closing", get("/small", "Connection: close\r\n"), 100) },
        Work { stream: true, ..row("stream", get("/small", ""), 300) },
    ]
}

/// Runs `binary` under the load, and ends it as a signal does.
///
/// # Errors
/// A failure of the load, for the one who started it.
pub fn load(binary: &Path) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let [origin, http, stream] = [free_port()?, free_port()?, free_port()?];
    std::fs::create_dir_all(folder.path().join("www"))?;
    std::fs::create_dir_all(folder.path().join("logs"))?;
    for (name, size) in [("1k.txt", 1 << 10), ("200k.txt", 200 << 10), ("large", 100_000)] {
        std::fs::write(folder.path().join("www").join(name), vec![b'x'; size])?;
    }
    let text = configuration(&folder.path().join("www"), origin, http, stream);
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, text)?;
    let mut server = Command::new(binary).arg("-p").arg(folder.path()).arg("-c").arg(&file).spawn()?;
    let worked = answers(&mut server, http).and_then(|()| {
        work().iter().try_for_each(|work| {
            println!("{}", work.name);
            drive(if work.stream { stream } else { http }, work)
        })
    });
    // Not killed: what was counted is written at the end.
    kill(Pid::from_raw(i32::try_from(server.id()).unwrap_or_default()), Signal::SIGTERM)?;
    let until = Instant::now() + PATIENCE;
    while server.try_wait()?.is_none() {
        if Instant::now() > until {
            server.kill()?;
            return Err(io::Error::other("the server does not end"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    worked
}

fn configuration(www: &Path, origin: u16, http: u16, stream: u16) -> String {
    let (www, small) = (www.display(), "x".repeat(512));
    format!(
        "daemon off; master_process off; pid tidegate.pid; error_log logs/error.log;
         events {{ worker_connections 1024; }}
         http {{
           types {{ text/plain txt; }} default_type application/octet-stream; root {www}; sendfile on;
           keepalive_requests 1000000; map $http_accept $kind {{ default other; ~html page; }}
           log_format main '$remote_addr [$time_local] \"$request\" $status $body_bytes_sent \"$http_user_agent\" $kind';
           access_log logs/access.log main;
           upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000; }}
           server {{ listen 127.0.0.1:{origin}; access_log off; root {www}; location /small {{ return 200 \"{small}\"; }} }}
           server {{ listen 127.0.0.1:{http}; server_name www.example.com;
             location / {{ add_header X-Frame-Options DENY; }}
             location /return {{ return 200 ok; }}
             location /old {{ rewrite ^/old(.*)$ /new$1 permanent; }}
             location /small {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";
               proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header Host $host; }}
             location /large {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}
         stream {{ server {{ listen 127.0.0.1:{stream}; proxy_pass 127.0.0.1:{origin}; }} }}"
    )
}

fn drive(port: u16, work: &Work) -> io::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..work.rounds {
        while clients.len() < CONNECTIONS {
            clients.push(connect(port)?);
        }
        clients.iter_mut().try_for_each(|client| client.write_all(work.request.as_bytes()))?;
        clients.iter_mut().try_for_each(answer)?;
        if work.closes {
            clients.clear();
        }
    }
    Ok(())
}

/// Reads one answer with a length.
fn answer(client: &mut TcpStream) -> io::Result<()> {
    let (mut input, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        let count = client.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        input.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&input);
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        let body = if head.starts_with("HTTP/1.1 304") { 0 } else { length.unwrap_or_default() };
        if input.len() >= head.len() + 4 + body {
            return Ok(());
        }
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// Waits until the server listens.
fn answers(server: &mut Child, port: u16) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while connect(port).is_err() {
        if server.try_wait()?.is_some() || Instant::now() > until {
            return Err(io::Error::other("the server does not listen"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
