//! How a feature joins a protocol: its tables, the variables it defines, and what it installs into a plan.

use std::marker::PhantomData;

use crate::build::{Build, Chores, Registry};
use crate::conf::apply::Setup;
use crate::conf::{Block, ConfigError, Errors, Feature, Levels, Node, Place, Tables, Word};
use crate::log::Logs;
use crate::script::{Regex, Template, Variable, Variables};
use crate::subject::Subject;

/// A feature of a protocol whose subjects are `S`.
pub trait Module<S: Subject>: Feature {
    /// The variables it offers.
    const VARIABLES: &'static [Variable<S>] = &[];

    /// Defines variables from one block's own settings. Runs for every block, outer ones first, before any install.
    ///
    /// # Errors
    /// What the configuration got wrong.
    fn define(_conf: &Self::Conf, _env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Adds to a plan what the (inherited) settings of its block enable; nothing if they enable nothing.
    ///
    /// # Errors
    /// What the configuration got wrong.
    fn install(_conf: &Self::Conf, _plan: &mut S::Plan, _env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// What a module may use while it installs.
pub struct Install<'a, S: Subject> {
    /// The protocol's variables.
    pub variables: &'a mut Variables<S>,
    /// Where names are resolved.
    pub setup: &'a Setup,
    /// The log files of the generation.
    pub logs: &'a Logs,
    /// The zones of the generation.
    pub zones: &'a crate::zone::Zones,
    /// The folders of temporary files of the generation.
    pub folders: &'a crate::file::folder::Folders,
    /// What each worker does beside serving. A chore for the whole configuration is added where the outermost block is
    /// defined: blocks are installed as often as they are used.
    pub chores: &'a Chores,
    /// Whatever else is to be found by name.
    pub registry: &'a Registry,
    /// Where further mistakes and warnings go.
    pub errors: &'a mut Errors,
    /// Where the block begins, for errors that belong to no directive.
    pub at: Place,
    /// What kind of block it is.
    pub level: Levels,
}

impl<'a, S: Subject> Install<'a, S> {
    /// For the outermost block of a protocol.
    pub fn new(variables: &'a mut Variables<S>, build: &'a mut Build<'_>, at: Place) -> Self {
        let Build { setup, logs, zones, folders, chores, registry, .. } = *build;
        let (errors, level) = (&mut *build.errors, Levels::PROTOCOL);
        Install { variables, setup, logs, zones, folders, chores, registry, errors, at, level }
    }
    /// Compiles a word with variables.
    ///
    /// # Errors
    /// See [`Template::compile`].
    pub fn template(&self, word: &Word) -> Result<Template<S>, ConfigError> {
        Template::compile(word, self.variables)
    }

    /// Compiles a pattern whose named groups become variables.
    ///
    /// # Errors
    /// See [`Regex::compile`].
    pub fn regex(&mut self, pattern: &[u8], ignore_case: bool, at: &Place) -> Result<Regex, ConfigError> {
        Regex::compile(pattern, ignore_case, at, self.variables).inspect_err(|_| self.errors.excuse_pattern(pattern))
    }
}

trait Erased<S: Subject> {
    fn define(&self, block: &Block, env: &mut Install<'_, S>) -> Result<(), ConfigError>;
    fn install(&self, block: &Block, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError>;
}

struct Of<M>(PhantomData<M>);

impl<S: Subject, M: Module<S>> Erased<S> for Of<M> {
    fn define(&self, block: &Block, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        block.confs.with::<M, _>(|conf| M::define(conf, env))
    }

    fn install(&self, block: &Block, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        block.confs.with::<M, _>(|conf| M::install(conf, plan, env))
    }
}

/// The modules of a protocol, in the order in which they install: the order of handlers within a phase.
pub struct Modules<S: Subject> {
    list: Vec<Box<dyn Erased<S>>>,
    /// Their directives.
    pub tables: Tables,
    /// Their variables.
    pub variables: Vec<&'static [Variable<S>]>,
}

impl<S: Subject> Modules<S> {
    /// No modules yet, for the top-level block `area`.
    pub fn new(area: &'static str) -> Self {
        Modules { list: Vec::new(), tables: Tables::new(area), variables: Vec::new() }
    }

    /// Adds a module behind the others.
    pub fn add<M: Module<S>>(&mut self) -> &mut Self {
        self.list.push(Box::new(Of::<M>(PhantomData)));
        self.tables.add::<M>();
        self.variables.push(M::VARIABLES);
        self
    }

    /// The built-in variables as `(name, documentation)`.
    pub fn described_variables(&self) -> Vec<(&'static str, &'static str)> {
        self.variables.iter().flat_map(|table| table.iter()).map(|row| (row.name, row.doc)).collect()
    }

    /// The built-in variables of all modules.
    pub fn fresh_variables(&self) -> Variables<S> {
        let mut variables = Variables::default();
        for table in &self.variables {
            variables.add(table);
        }
        variables
    }

    /// A protocol's block from its words: settings applied, variables defined, inner blocks completed from outer ones.
    /// Mistakes go to the build's errors.
    pub fn read(&self, node: &Node, variables: &mut Variables<S>, build: &mut Build<'_>) -> Block {
        let body = node.body.as_deref().unwrap_or_default();
        let mut block = self.tables.apply(&node.name, &node.args, Levels::PROTOCOL, body, build.setup, build.errors);
        let at = block.at().clone();
        let mentioned = build.errors.take_mentioned();
        let mut env = Install::new(variables, build, at);
        self.define(&block, &mut env);
        for word in mentioned {
            let template = env.template(&word);
            env.errors.keep(template);
        }
        block.inherit();
        block
    }

    /// Lets every module define its variables, for `block` and everything in it.
    fn define(&self, block: &Block, env: &mut Install<'_, S>) {
        (env.at, env.level) = (block.at().clone(), block.level);
        for module in &self.list {
            if let Err(error) = module.define(block, env) {
                env.errors.push(error);
            }
        }
        for child in &block.children {
            self.define(child, env);
        }
    }

    /// Lets every module add to the plan of `block`.
    pub fn install(&self, block: &Block, plan: &mut S::Plan, env: &mut Install<'_, S>) {
        (env.at, env.level) = (block.at().clone(), block.level);
        for module in &self.list {
            if let Err(error) = module.install(block, plan, env) {
                env.errors.push(error);
            }
        }
    }
}
