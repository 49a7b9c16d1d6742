//! Ordered phases of handlers that decide whether a subject goes on.

use std::future::Future;
use std::pin::Pin;

/// Phases in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Right after the subject is known; sees it first.
    PostAccept,
    /// Rewriting in the outer block, before a location is chosen.
    ServerRewrite,
    /// Rewriting in the chosen block.
    Rewrite,
    /// Limits.
    PreAccess,
    /// Who may.
    Access,
    /// Last checks before the content.
    PreContent,
}

/// What a handler decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No objection: the next handler.
    Continue,
    /// Allowed: skips the rest of the phase; of access only with `satisfy any`, since otherwise all have to allow.
    Allow,
    /// Ends the subject with this status.
    Refuse(u16),
    /// The target has changed: the block must be chosen again.
    Restart,
    /// The handler has left a complete answer in the subject.
    Answered,
}

/// A handler's decision, now or later; one that need not wait does not allocate.
pub enum Step<'a> {
    /// Decided.
    Now(Verdict),
    /// Being decided.
    Later(Pin<Box<dyn Future<Output = Verdict> + 'a>>),
}

/// A phase handler.
pub trait Gate<S> {
    /// Decides about `subject`.
    fn check<'a>(&'a self, subject: &'a S) -> Step<'a>;
}

/// A plan's handlers in the order of their phases.
pub struct Gates<S> {
    list: Vec<(Phase, Box<dyn Gate<S>>)>,
    /// `satisfy any`: in [`Phase::Access`] it is enough that one handler allows.
    pub any: bool,
}

impl<S> Default for Gates<S> {
    fn default() -> Self {
        Gates { list: Vec::new(), any: false }
    }
}

impl<S> Gates<S> {
    /// Adds a handler behind those of the same phase.
    pub fn add(&mut self, phase: Phase, gate: Box<dyn Gate<S>>) {
        let at = self.list.partition_point(|(other, _)| *other <= phase);
        self.list.insert(at, (phase, gate));
    }

    /// True when nothing has to be asked.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Runs the handlers of the phases in `from..=to`; the first that objects decides.
    pub async fn run(&self, subject: &S, from: Phase, to: Phase) -> Verdict {
        let mut allowed = None;
        let mut refused = None;
        for (phase, gate) in &self.list {
            if *phase < from || *phase > to || allowed == Some(*phase) {
                continue;
            }
            if let Some(verdict) = refused
                && *phase > Phase::Access
            {
                return verdict;
            }
            let verdict = match gate.check(subject) {
                Step::Now(verdict) => verdict,
                Step::Later(deciding) => deciding.await,
            };
            match verdict {
                Verdict::Continue => {}
                Verdict::Allow if *phase == Phase::Access && !self.any => {}
                Verdict::Allow => {
                    allowed = Some(*phase);
                    refused = None;
                }
                // A client that may still log in is told so.
                Verdict::Refuse(401 | 403) if self.any && *phase == Phase::Access => {
                    refused = refused.filter(|first| *first == Verdict::Refuse(401)).or(Some(verdict));
                }
                verdict => return verdict,
            }
        }
        refused.unwrap_or(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    struct Says(Verdict);

    impl Gate<()> for Says {
        fn check<'a>(&'a self, _: &'a ()) -> Step<'a> {
            Step::Now(self.0)
        }
    }

    #[test]
    fn one_or_all_must_allow() {
        use Verdict::{Allow, Continue, Refuse};
        for (verdicts, all, any) in [
            (&[Allow, Refuse(401)][..], Refuse(401), Continue),
            (&[Refuse(403), Allow], Refuse(403), Continue),
            (&[Refuse(403), Refuse(401)], Refuse(403), Refuse(401)),
            (&[Refuse(401), Refuse(403)], Refuse(401), Refuse(401)),
            (&[Refuse(500), Allow], Refuse(500), Refuse(500)),
            (&[Refuse(403), Continue], Refuse(403), Refuse(403)),
            (&[Continue, Allow], Continue, Continue),
        ] {
            for (is_any, expected) in [(false, all), (true, any)] {
                let mut gates = Gates { any: is_any, ..Gates::default() };
                verdicts.iter().for_each(|verdict| gates.add(Phase::Access, Box::new(Says(*verdict))));
                gates.add(Phase::PreContent, Box::new(Says(Continue)));
                let running = std::pin::pin!(gates.run(&(), Phase::PreAccess, Phase::PreContent));
                let verdict = running.poll(&mut Context::from_waker(Waker::noop()));
                assert_eq!(verdict, Poll::Ready(expected), "{verdicts:?}");
            }
        }
    }
}
