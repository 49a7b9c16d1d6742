//! Paths inside of an exchange: a gate of the location runs them, with everything that an exchange has by then.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use tidegate_core::conf::{ConfigError, Directive, Feature};
use tidegate_core::module::{Install, Module};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::subject::Plan as _;
use tidegate_http::Http;
use tidegate_http::answer::{Answer, Body};
use tidegate_http::exchange::Exchange;
use tidegate_http::output::framing::Framing;
use tidegate_http::output::head;
use tidegate_http::plan::Plan;
use tidegate_http::upstream::Shared;
use tidegate_http::upstream::module::{ProxyConf, Settings};
use tidegate_http::upstream::pass::Pass;
use tidegate_http::upstream::request::{BodyFraming, write_head};
use tidegate_http_wire::Fields;

use crate::connection::{Client, on_loop};
use crate::count::Meter;
use crate::parts::REQUEST;

thread_local! {
    /// The row that the gate runs.
    static ROW: RefCell<Option<(Meter, Path)>> = const { RefCell::new(None) };
}

type Path = fn(&Meter, &Exchange, &Settings, &Pass);

/// The head of a request to an upstream is written.
pub fn request_head(meter: &Meter) {
    run(meter, |meter, exchange, settings, pass| {
        let Pass::Fixed(destination) = pass else { return };
        meter.repeat(
            || Vec::with_capacity(1024),
            |out| write_head(exchange, settings, destination, BodyFraming::None, out),
        );
    });
}

/// The head of an answer is written.
pub fn answer_head(meter: &Meter) {
    run(meter, |meter, exchange, _, _| {
        let mut fields = Fields::new();
        fields.push(b"Content-Type", b"text/html; charset=utf-8");
        fields.push(b"Cache-Control", b"max-age=60");
        fields.push(b"ETag", b"\"5f2b-1a2b3c\"");
        let mut answer = Answer::new(200, Body::Bytes(Bytes::from_static(&[b'x'; 512])));
        answer.fields = fields;
        meter.repeat(|| (), |()| head::write(exchange, &mut answer, Framing::Length(512), true));
    });
}

/// A template of text and variables is evaluated.
pub fn template(meter: &Meter) {
    run(meter, |meter, exchange, settings, _| {
        let (_, template) = &settings.set_headers[0];
        meter.repeat(|| Vec::with_capacity(1024), |out| template.write(exchange, out));
    });
}

/// The gates of a plan let a client in.
pub fn gates(meter: &Meter) {
    run(meter, |meter, exchange, _, _| {
        let plan = exchange.plan();
        meter.repeat(
            || (),
            |()| {
                let running = pin!(plan.gates.run(exchange, Phase::PreAccess, Phase::Access));
                running.poll(&mut Context::from_waker(Waker::noop()))
            },
        );
    });
}

fn run(meter: &Meter, path: Path) {
    ROW.set(Some((meter.clone(), path)));
    on_loop(async {
        let text = "http { access_log off; limit_conn_zone $binary_remote_addr zone=c:1m; server { listen 127.0.0.1:80;
            location / { proxy_pass http://127.0.0.1:1;
                proxy_set_header X-Template \"$scheme://$host$request_uri from $remote_addr\";
                proxy_set_header Connection \"\"; proxy_http_version 1.1;
                limit_conn c 100; deny 10.0.0.1; deny 192.168.0.0/16; allow 127.0.0.0/8; deny all; } } }";
        // What the gate does is counted by itself, and the turns of the connection around it are not.
        let http = Http::with(|modules| _ = modules.add::<Inside>());
        Client::of(&http, text, &Meter::new(0)).await.ask(REQUEST, b"\r\n").await;
    });
}

/// Shares the settings of the proxy, and makes of them what that makes.
struct Inside;

impl Feature for Inside {
    type Conf = ProxyConf;
    const NAME: &'static str = "inside";
    const DIRECTIVES: &'static [Directive<ProxyConf>] = &[];
}

impl Module<Exchange> for Inside {
    fn install(conf: &ProxyConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let Some(word) = conf.pass() else { return Ok(()) };
        let shared = plan.parts.get::<Rc<Shared>>().cloned().unwrap_or_default();
        let pass = Pass::compile(word, plan, &shared, env)?;
        let settings = Rc::new(conf.build(word, plan, env)?);
        plan.gate(Phase::PreContent, Box::new(Runs { pass, settings }));
        Ok(())
    }
}

struct Runs {
    pass: Pass,
    settings: Rc<Settings>,
}

impl Gate<Exchange> for Runs {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        if let Some((meter, path)) = ROW.take() {
            path(&meter, exchange, &self.settings, &self.pass);
        }
        Step::Now(Verdict::Refuse(204))
    }
}
