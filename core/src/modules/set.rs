//! `set`: assigns a value to a variable of the configuration's own.

use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Word};
use crate::inherit;
use crate::module::{Install, Module};
use crate::phase::{Gate, Phase, Step, Verdict};
use crate::script::Template;
use crate::subject::{Plan, Subject};

/// One `set`.
#[derive(Clone)]
struct Assignment {
    variable: Word,
    value: Word,
    level: Levels,
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
            let word = line.arg(0)?;
            let variable = word
                .after("$")
                .filter(|name| !name.bytes().is_empty())
                .ok_or_else(|| format!("invalid variable name \"{word}\""))?;
            conf.assignments.push(Assignment { variable, value: line.arg(1)?.clone(), level: line.level() });
            Ok(())
        }),
        doc: "Assigns a value, which may contain variables, to a variable.",
    }];
}

impl<S: Subject> Module<S> for Assign {
    fn define(conf: &AssignConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for assignment in &conf.assignments {
            env.variables.settable(&assignment.variable.text(), assignment.variable.at())?;
        }
        Ok(())
    }

    fn install(conf: &AssignConf, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for assignment in &conf.assignments {
            let slot = env.variables.settable(&assignment.variable.text(), assignment.variable.at())?;
            let value = env.template(&assignment.value)?;
            let phase = if assignment.level == Levels::SERVER { Phase::ServerRewrite } else { Phase::Rewrite };
            plan.gate(phase, Box::new(Setter { slot, value }));
        }
        Ok(())
    }
}

struct Setter<S: 'static> {
    slot: usize,
    value: Template<S>,
}

impl<S: Subject> Gate<S> for Setter<S> {
    fn check<'a>(&'a self, subject: &'a S) -> Step<'a> {
        let value = self.value.value(subject);
        subject.slots().set(self.slot, Some(&value));
        Step::Now(Verdict::Continue)
    }
}
