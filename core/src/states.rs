//! What features remember of a subject: each keeps a type of its own there, which nobody else need know of.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::rc::Rc;

/// What a feature remembers of a subject. It begins with its default when it is first asked for.
pub trait State: Default + 'static {
    /// A subject within another one shares it with that; otherwise each has its own.
    const SHARED: bool = false;
}

type List = Vec<(TypeId, Rc<dyn Any>)>;

/// All that features remember of one subject. Takes no memory until one does.
#[derive(Default)]
pub struct States {
    own: RefCell<List>,
    /// What a subject and those within it have in common; there only once one of them shares something.
    shared: RefCell<Option<Rc<RefCell<List>>>>,
}

impl States {
    /// Those of a subject within another one.
    #[must_use]
    pub fn within(outer: &States) -> States {
        let shared = outer.shared.borrow_mut().get_or_insert_default().clone();
        States { own: RefCell::default(), shared: RefCell::new(Some(shared)) }
    }

    /// What is remembered, if anything is yet.
    pub fn find<T: State>(&self) -> Option<Rc<T>> {
        if T::SHARED { find(&self.shared.borrow().as_ref()?.borrow()) } else { find(&self.own.borrow()) }
    }

    /// What is remembered; from now on it is.
    pub fn get<T: State>(&self) -> Rc<T> {
        if let Some(known) = self.find() {
            return known;
        }
        let fresh = Rc::new(T::default());
        let entry = (TypeId::of::<T>(), fresh.clone() as Rc<dyn Any>);
        if T::SHARED {
            self.shared.borrow_mut().get_or_insert_default().borrow_mut().push(entry);
        } else {
            self.own.borrow_mut().push(entry);
        }
        fresh
    }
}

fn find<T: State>(list: &List) -> Option<Rc<T>> {
    let (_, found) = list.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
    found.clone().downcast().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[derive(Default)]
    struct Own(Cell<u8>);

    impl State for Own {}

    #[derive(Default)]
    struct Common(Cell<u8>);

    impl State for Common {
        const SHARED: bool = true;
    }

    #[test]
    fn it_is_remembered_once_it_was_asked_for() {
        let states = States::default();
        assert!(states.find::<Own>().is_none() && states.find::<Common>().is_none());
        states.get::<Own>().0.set(1);
        states.get::<Common>().0.set(2);
        assert_eq!((states.get::<Own>().0.get(), states.get::<Common>().0.get()), (1, 2));
        assert_eq!(states.find::<Own>().map(|own| own.0.get()), Some(1));
    }

    #[test]
    fn what_is_shared_is_seen_from_within_and_without() {
        for outer_first in [true, false] {
            let outer = States::default();
            if outer_first {
                outer.get::<Common>().0.set(1);
                outer.get::<Own>().0.set(1);
            }
            let inner = States::within(&outer);
            let innermost = States::within(&inner);
            innermost.get::<Common>().0.set(2);
            assert_eq!(outer.get::<Common>().0.get(), 2);
            assert_eq!(inner.get::<Common>().0.get(), 2);
            inner.get::<Own>().0.set(3);
            assert_eq!(outer.get::<Own>().0.get(), u8::from(outer_first));
            assert!(innermost.find::<Own>().is_none());
        }
    }
}
