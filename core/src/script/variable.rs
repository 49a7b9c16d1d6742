//! What `$name` means: a registry filled by the modules, and references that templates hold.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::conf::{ConfigError, Errors, Place, others};
use crate::subject::Subject;

/// A row of a module's variable table.
pub struct Variable<S: 'static> {
    /// The name without `$`; for a family, the prefix that all its names share (`arg_`).
    pub name: &'static str,
    /// How its value is found.
    pub get: Get<S>,
    /// One line of documentation.
    pub doc: &'static str,
}

/// Appends a variable's value; `false` means there is none.
type Getter<S> = fn(&S, &mut Vec<u8>) -> bool;
/// Changes what a variable stands for.
pub type Assign<S> = fn(&S, &[u8]);
/// The same for a family: told what follows the prefix.
type FamilyGetter<S> = fn(&S, &str, &mut Vec<u8>) -> bool;

/// How a built-in variable's value is found: it is appended to the buffer, and `false` means there is none.
pub enum Get<S: 'static> {
    /// One variable.
    Value(Getter<S>),
    /// One that a configuration may set: what it has set is read until the subject ends.
    Changeable(Getter<S>),
    /// One that a configuration may set, by which it changes the subject itself.
    Assigned(Getter<S>, Assign<S>),
    /// A family of variables: the function is told what follows the prefix.
    Prefix(FamilyGetter<S>),
}

/// A value computed from other variables, such as a `map`.
pub type Compute<S> = Box<dyn Fn(&S, &mut Vec<u8>) -> bool>;

/// Where a variable's value comes from.
pub enum Source<S: 'static> {
    /// A function of the subject.
    Value(Getter<S>),
    /// A function of the subject, unless the slot, made when something sets it, has been set.
    Changeable(Getter<S>, OnceCell<usize>),
    /// A function of the subject, and another that changes it; unless the slot, made for a named group, has been set.
    Assigned(Getter<S>, Assign<S>, OnceCell<usize>),
    /// A member of a family.
    Prefix(FamilyGetter<S>, Box<str>),
    /// A slot that `set` or a named capture fills.
    Slot(usize),
    /// Computed once per subject and remembered in a slot.
    Once(usize, Compute<S>),
    /// Computed at each use.
    Always(Compute<S>),
}

/// Where what a variable is set to goes.
pub enum Settable<S: 'static> {
    /// To a slot of the subject's memory.
    Slot(usize),
    /// To the subject itself.
    Subject(Assign<S>),
}

/// A variable that something refers to; filled at the latest when the whole configuration has been read.
pub struct VariableCell<S: 'static> {
    name: Box<str>,
    source: OnceCell<Source<S>>,
    /// A definition that takes the place of what is built in.
    instead: OnceCell<Source<S>>,
    used_at: Place,
}

/// A shared reference to a variable.
pub type VariableRef<S> = Rc<VariableCell<S>>;

impl<S: Subject> VariableCell<S> {
    /// The name without `$`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> Option<&Source<S>> {
        self.instead.get().or_else(|| self.source.get())
    }

    /// Appends the value; `false` when there is none.
    pub fn read(&self, subject: &S, out: &mut Vec<u8>) -> bool {
        match self.source() {
            None => false,
            Some(Source::Value(get)) => get(subject, out),
            Some(Source::Changeable(get, slot) | Source::Assigned(get, _, slot)) => {
                let set = slot.get().and_then(|slot| subject.slots().read(*slot, out));
                set.unwrap_or_else(|| get(subject, out))
            }
            Some(Source::Prefix(get, rest)) => get(subject, rest, out),
            Some(Source::Slot(index)) => subject.slots().read(*index, out).unwrap_or(false),
            Some(Source::Always(compute)) => subject.slots().deeper(|| compute(subject, out)).unwrap_or(false),
            Some(Source::Once(index, compute)) => {
                let slots = subject.slots();
                slots.read(*index, out).unwrap_or_else(|| {
                    let start = out.len();
                    let found = slots.deeper(|| compute(subject, out)).unwrap_or(false);
                    slots.set(*index, found.then(|| out.get(start..).unwrap_or_default()));
                    found
                })
            }
        }
    }
}

fn duplicate(name: &str, at: &Place) -> ConfigError {
    ConfigError::new(at, format!("the duplicate \"{name}\" variable"))
}

/// All variables of one protocol while its configuration is installed.
pub struct Variables<S: 'static> {
    built_in: HashMap<&'static str, &'static Get<S>>,
    families: Vec<(&'static str, FamilyGetter<S>)>,
    fixed: &'static [&'static str],
    cells: RefCell<HashMap<Box<str>, VariableRef<S>>>,
    slots: usize,
}

impl<S: Subject> Default for Variables<S> {
    fn default() -> Self {
        Variables { built_in: HashMap::new(), families: Vec::new(), fixed: &[], cells: RefCell::default(), slots: 0 }
    }
}

impl<S: Subject> Variables<S> {
    /// Adds a module's table.
    pub fn add(&mut self, table: &'static [Variable<S>]) {
        for variable in table {
            match &variable.get {
                Get::Prefix(get) => self.families.push((variable.name, *get)),
                get => {
                    self.built_in.insert(variable.name, get);
                }
            }
        }
    }

    /// Reserves names: those of a family, or of variables that we do not have, which nginx lets no configuration define.
    pub fn reserve(&mut self, names: &'static [&'static str]) {
        self.fixed = names;
    }

    fn is_fixed(&self, name: &str) -> bool {
        self.fixed.iter().any(|fixed| fixed.eq_ignore_ascii_case(name))
    }

    /// The variable of this name; it need not be defined yet. nginx: names are case-insensitive.
    pub fn refer(&self, name: &str, at: &Place) -> VariableRef<S> {
        let name = name.to_ascii_lowercase();
        let mut cells = self.cells.borrow_mut();
        if let Some(cell) = cells.get(&*name) {
            return cell.clone();
        }
        let cell = VariableCell {
            name: name.clone().into(),
            source: OnceCell::new(),
            instead: OnceCell::new(),
            used_at: at.clone(),
        };
        if let Some(get) = self.built_in.get(&*name) {
            let source = match get {
                Get::Value(get) => Some(Source::Value(*get)),
                Get::Changeable(get) => Some(Source::Changeable(*get, OnceCell::new())),
                Get::Assigned(get, assign) => Some(Source::Assigned(*get, *assign, OnceCell::new())),
                Get::Prefix(_) => None,
            };
            source.into_iter().for_each(|source| drop(cell.source.set(source)));
        }
        let cell = Rc::new(cell);
        cells.insert(name.into(), cell.clone());
        cell
    }

    /// A fresh slot in every subject's memory.
    pub fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// Where a variable that can be set at run time keeps what it is set to; a slot is made on first use.
    ///
    /// # Errors
    /// The variable is built in and nginx does not let it be changed, or is computed at each use.
    pub fn settable(&mut self, name: &str, at: &Place) -> Result<Settable<S>, ConfigError> {
        let cell = self.refer(name, at);
        match cell.source() {
            // nginx: what is remembered of a map, say, may be overwritten for the rest of the subject's life.
            Some(Source::Slot(index) | Source::Once(index, _)) => Ok(Settable::Slot(*index)),
            Some(Source::Assigned(_, assign, _)) => Ok(Settable::Subject(*assign)),
            Some(Source::Changeable(_, slot)) => {
                let index = *slot.get_or_init(|| {
                    self.slots += 1;
                    self.slots - 1
                });
                Ok(Settable::Slot(index))
            }
            Some(_) => Err(duplicate(name, at)),
            None if self.is_fixed(name) => Err(duplicate(name, at)),
            None => {
                let index = self.slot();
                let _ = cell.source.set(Source::Slot(index));
                Ok(Settable::Slot(index))
            }
        }
    }

    /// The slot that a named group is left in. nginx: a group named like a variable that changes the subject is what that
    /// variable reads from then on, and the subject stays as it is.
    ///
    /// # Errors
    /// As [`settable`](Variables::settable).
    pub fn capturable(&mut self, name: &str, at: &Place) -> Result<usize, ConfigError> {
        match self.settable(name, at)? {
            Settable::Slot(slot) => Ok(slot),
            Settable::Subject(_) => {
                let fresh = self.slot();
                match self.refer(name, at).source() {
                    Some(Source::Assigned(_, _, slot)) => Ok(*slot.get_or_init(|| fresh)),
                    _ => Ok(fresh),
                }
            }
        }
    }

    /// Defines a computed variable; a later definition of the same name is refused. A built-in variable that may be set
    /// may be defined as well, and is what is defined from then on.
    ///
    /// # Errors
    /// The name is taken.
    pub fn define(&mut self, name: &str, at: &Place, source: Source<S>) -> Result<(), ConfigError> {
        let cell = self.refer(name, at);
        let place = match cell.source.get() {
            Some(Source::Changeable(..) | Source::Assigned(..)) => &cell.instead,
            None if self.is_fixed(name) => return Err(duplicate(name, at)),
            _ => &cell.source,
        };
        place.set(source).map_err(|_| duplicate(name, at))
    }

    /// True when something refers to a variable whose name begins with `prefix`.
    pub fn is_used(&self, prefix: &str) -> bool {
        self.cells.borrow().keys().any(|name| name.starts_with(prefix))
    }

    /// Resolves families and reports every name that nobody defined.
    pub fn finish(&self, errors: &mut Errors) {
        let cells = self.cells.borrow();
        let mut open: Vec<&VariableRef<S>> = cells.values().filter(|cell| cell.source.get().is_none()).collect();
        open.sort_by(|a, b| (&a.used_at.file, a.used_at.line).cmp(&(&b.used_at.file, b.used_at.line)));
        for cell in open {
            let family =
                self.families.iter().filter_map(|(prefix, get)| Some((*get, cell.name.strip_prefix(prefix)?))).next();
            match family {
                Some((get, rest)) => {
                    let _ = cell.source.set(Source::Prefix(get, rest.into()));
                }
                None => {
                    let name = &cell.name;
                    let message = if others::is_variable(name) {
                        format!("variable \"{name}\" is known to nginx, but not supported yet")
                    } else {
                        let near = crate::conf::known::nearest(name, self.built_in.keys().copied());
                        let hint = near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
                        format!("unknown \"{name}\" variable{hint}")
                    };
                    let dollared = format!("${name}");
                    errors.push(ConfigError::missing(&cell.used_at, message, dollared.as_bytes()));
                }
            }
        }
    }
}
