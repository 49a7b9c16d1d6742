//! `set`: assigns a value to a variable of the configuration's own.

use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Line, Refusal, Word};
use crate::inherit;
use crate::module::{Install, Module};
use crate::phase::{Gate, Phase, Step, Verdict};
use crate::script::Template;
use crate::script::variable::Settable;
use crate::subject::{Plan, Subject};

/// One `set` as it is written. A protocol whose rewriting interleaves `set` with other instructions keeps these among
/// its own; others use [`Assign`].
#[derive(Clone)]
pub struct Assignment {
    variable: Word,
    value: Word,
    level: Levels,
}

impl Assignment {
    /// Reads the arguments of `set`.
    ///
    /// # Errors
    /// The first is not a variable's name.
    pub fn parse(line: &Line<'_>) -> Result<Assignment, Refusal> {
        let word = line.arg(0)?;
        let name = word.after("$").filter(|name| !name.bytes().is_empty());
        let variable = name.ok_or_else(|| format!("invalid variable name \"{word}\""))?;
        Ok(Assignment { variable, value: line.arg(1)?.clone(), level: line.level() })
    }

    /// Makes the variable known.
    ///
    /// # Errors
    /// The name belongs to another kind of variable.
    pub fn define<S: Subject>(&self, env: &mut Install<'_, S>) -> Result<Settable<S>, ConfigError> {
        self.target(env)
    }

    fn target<S: Subject>(&self, env: &mut Install<'_, S>) -> Result<Settable<S>, ConfigError> {
        env.variables.settable(&self.variable.text(), self.variable.at())
    }

    /// The run-time form.
    ///
    /// # Errors
    /// As [`define`](Assignment::define), or the value is no template.
    pub fn compile<S: Subject>(&self, env: &mut Install<'_, S>) -> Result<Setter<S>, ConfigError> {
        Ok(Setter { to: self.target(env)?, value: env.template(&self.value)? })
    }
}

/// The settings of one block. As in nginx they run where they stand and are not inherited.
#[derive(Default)]
pub struct AssignConf {
    assignments: Vec<Assignment>,
}

inherit!(AssignConf {} own { assignments });

/// `set`
pub struct Assign;

impl Feature for Assign {
    type Conf = AssignConf;
    const NAME: &'static str = "set";
    const DIRECTIVES: &'static [Directive<AssignConf>] = &[Directive {
        name: "set",
        levels: Levels::SERVER.or(Levels::LOCATION),
        arity: Arity::Exactly(2),
        set: Set::With(|conf, line| {
            conf.assignments.push(Assignment::parse(line)?);
            Ok(())
        }),
        doc: "Assigns a value, which may contain variables, to a variable.",
    }];
}

impl<S: Subject> Module<S> for Assign {
    fn define(conf: &AssignConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for assignment in &conf.assignments {
            let defined = assignment.define(env);
            env.errors.keep(defined);
        }
        Ok(())
    }

    fn install(conf: &AssignConf, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for assignment in &conf.assignments {
            let phase = if assignment.level == Levels::SERVER { Phase::ServerRewrite } else { Phase::Rewrite };
            plan.gate(phase, Box::new(assignment.compile(env)?));
        }
        Ok(())
    }
}

/// Assigns when it is run.
pub struct Setter<S: 'static> {
    to: Settable<S>,
    value: Template<S>,
}

impl<S: Subject> Setter<S> {
    /// Evaluates the value and assigns it.
    pub fn run(&self, subject: &S) {
        self.run_with(subject, subject);
    }

    /// Evaluates the value for one subject and assigns it in another.
    pub fn run_with(&self, of: &S, subject: &S) {
        let value = self.value.value(of);
        match self.to {
            Settable::Slot(slot) => subject.slots().set(slot, Some(&value)),
            Settable::Subject(assign) => assign(subject, &value),
        }
    }
}

impl<S: Subject> Gate<S> for Setter<S> {
    fn check<'a>(&'a self, subject: &'a S) -> Step<'a> {
        self.run(subject);
        Step::Now(Verdict::Continue)
    }
}
