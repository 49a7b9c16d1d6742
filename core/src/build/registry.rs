//! What has been made, by kind, owner and name: groups of servers, limits, zones, counters. A feature leaves what others may
//! want to find, whichever protocol they belong to; they look for it while they serve, when everything has been made.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

/// The things of one generation. Its copies are all the same registry.
#[derive(Clone, Default)]
pub struct Registry(Rc<RefCell<Vec<Entry>>>);

struct Entry {
    owner: Rc<str>,
    name: Rc<[u8]>,
    thing: Rc<dyn Any>,
}

/// Something that was found.
#[derive(Debug)]
pub struct Found<T> {
    /// The protocol that it belongs to; empty when it is everybody's.
    pub owner: Rc<str>,
    /// Its name.
    pub name: Rc<[u8]>,
    /// What it is.
    pub thing: Rc<T>,
}

impl Registry {
    /// Makes something known: `owner` is the block of its protocol, or empty. Two of one kind, owner and name are both kept,
    /// since it is not here that names are judged; [`Registry::find`] gives the first.
    ///
    /// What is registered must not hold the registry: the two would keep each other.
    pub fn add<T: Any>(&self, owner: &str, name: impl AsRef<[u8]>, thing: Rc<T>) {
        self.0.borrow_mut().push(Entry { owner: owner.into(), name: name.as_ref().into(), thing });
    }

    /// All things of a kind, in the order in which they were made.
    pub fn all<T: Any>(&self) -> Vec<Found<T>> {
        self.0.borrow().iter().filter_map(Entry::found).collect()
    }

    /// The one of this owner and name.
    pub fn find<T: Any>(&self, owner: &str, name: impl AsRef<[u8]>) -> Option<Rc<T>> {
        let (entries, name) = (self.0.borrow(), name.as_ref());
        let mut named = entries.iter().filter(|entry| *entry.owner == *owner && *entry.name == *name);
        named.find_map(Entry::found).map(|found| found.thing)
    }
}

impl Entry {
    fn found<T: Any>(&self) -> Option<Found<T>> {
        let thing = self.thing.clone().downcast().ok()?;
        Some(Found { owner: self.owner.clone(), name: self.name.clone(), thing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Group(u32);
    struct Zone(u32);

    #[test]
    fn things_are_found_by_kind_owner_and_name() {
        let registry = Registry::default();
        let handle = registry.clone();
        registry.add("http", "a", Rc::new(Group(1)));
        registry.add("stream", "a", Rc::new(Group(2)));
        registry.add("http", "a", Rc::new(Zone(3)));
        registry.add("http", "a", Rc::new(Group(4)));
        let group = |owner, name| handle.find::<Group>(owner, name).map(|group| group.0);
        for (owner, name, expected) in [
            ("http", "a", Some(1)),
            ("stream", "a", Some(2)),
            ("mail", "a", None),
            ("http", "b", None),
            ("", "a", None),
            ("http", "A", None),
        ] {
            assert_eq!(group(owner, name), expected, "{owner} {name}");
        }
        assert_eq!(handle.find::<Zone>("http", "a").map(|zone| zone.0), Some(3));
        let all: Vec<String> = handle
            .all::<Group>()
            .iter()
            .map(|found| format!("{} {} {}", found.owner, found.name.escape_ascii(), found.thing.0))
            .collect();
        assert_eq!(all, ["http a 1", "stream a 2", "http a 4"]);
        assert!(handle.all::<u8>().is_empty());
    }
}
