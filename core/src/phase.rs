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
    /// Allowed: skips the rest of the phase.
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
}

impl<S> Default for Gates<S> {
    fn default() -> Self {
        Gates { list: Vec::new() }
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
        for (phase, gate) in &self.list {
            if *phase < from || *phase > to || allowed == Some(*phase) {
                continue;
            }
            let verdict = match gate.check(subject) {
                Step::Now(verdict) => verdict,
                Step::Later(deciding) => deciding.await,
            };
            match verdict {
                Verdict::Continue => {}
                Verdict::Allow => allowed = Some(*phase),
                verdict => return verdict,
            }
        }
        Verdict::Continue
    }
}
