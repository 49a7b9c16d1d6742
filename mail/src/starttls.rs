//! `starttls`: from plain text to TLS in the middle of a connection.

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Place, Setting};
use tidegate_core::subject::Subject;
use tidegate_core::tls::{Objection, ServerTls};
use tidegate_core::{inherit, log};
use tidegate_mail_wire::dialogue::{Dialogue, StartTls};

use crate::client::Client;
use crate::session::Ending;

/// The settings of one block.
#[derive(Default)]
pub struct StartingConf {
    starttls: Setting<(StartTls, Place)>,
}

inherit!(StartingConf { starttls });

/// `starttls`
pub struct Starting;

impl Feature for Starting {
    type Conf = StartingConf;
    const NAME: &'static str = "starttls";
    const DIRECTIVES: &'static [Directive<StartingConf>] = &[Directive {
        name: "starttls",
        levels: Levels::PROTOCOL.or(Levels::SERVER),
        arity: Arity::Exactly(1),
        set: Set::With(|conf, line| {
            let modes = [("off", StartTls::Off), ("on", StartTls::On), ("only", StartTls::Only)];
            let (_, mode) = modes
                .into_iter()
                .find(|(name, _)| line.arg(0).is_ok_and(|word| word.is_like(name)))
                .ok_or_else(|| format!("invalid value \"{}\"", line.args().first().map_or("".into(), |w| w.text())))?;
            conf.starttls.set((mode, line.at().clone()))
        }),
        doc: "Whether STARTTLS is offered, and whether nobody logs in without it.",
    }];
}

impl StartingConf {
    /// Whether STARTTLS is offered.
    pub fn mode(&self) -> StartTls {
        self.starttls.get().map_or(StartTls::Off, |(mode, _)| *mode)
    }

    /// Where that is written.
    pub fn at(&self) -> Option<&Place> {
        self.starttls.get().map(|(_, at)| at)
    }
}

/// Answers STARTTLS: the handshake, and the end of everything that was said in clear.
///
/// # Errors
/// The handshake failed.
pub async fn upgrade<D: Dialogue>(client: &mut Client, dialogue: &mut D) -> Result<(), Ending> {
    let session = client.session();
    let Some(tls) = session.server().tls.clone() else { return Err(Ending::TlsFailed) };
    session.starttls();
    shake_hands::<D>(client, tls).await?;
    dialogue.tls_established(client.input());
    Ok(())
}

/// Brings the client into TLS, and tells it if its certificate will not do.
///
/// # Errors
/// The handshake failed, or there is something against the certificate.
pub async fn shake_hands<D: Dialogue>(client: &mut Client, tls: ServerTls) -> Result<(), Ending> {
    client.start_tls(tls.clone()).await?;
    let session = client.session();
    let Some(objection) = session.peer().tls.get().and_then(|info| tls.objection(info)) else { return Ok(()) };
    log!(session.logger(), Info, "{objection}");
    client.replies().extend_from_slice(match objection {
        Objection::Untrusted(_) => D::CERTIFICATE_ERROR,
        Objection::Missing => D::CERTIFICATE_REQUIRED,
    });
    Err(Ending::TlsFailed)
}
