//! Finding, filling and removing.

use std::future::Future;
use std::io;

use bytes::Bytes;

use crate::key::Key;

/// A backend that keeps bodies.
pub trait Store {
    /// An entry that has been found.
    type Entry: Entry;
    /// An entry that is being written.
    type Fill: Fill;

    /// Looks for an entry.
    ///
    /// # Errors
    /// The backend failed; the caller goes on as if nothing had been found.
    fn find(&self, key: &Key) -> impl Future<Output = io::Result<Found<Self::Entry>>>;

    /// Begins an entry. Others that look for the key meanwhile are told [`Found::Filling`].
    ///
    /// # Errors
    /// The backend failed or has no room; the caller answers without keeping.
    fn fill(&self, key: &Key, metadata: Bytes) -> impl Future<Output = io::Result<Self::Fill>>;

    /// Removes an entry, if there is one. Whoever is reading it may finish.
    ///
    /// # Errors
    /// The backend failed.
    fn remove(&self, key: &Key) -> impl Future<Output = io::Result<()>>;
}

/// What a look finds.
pub enum Found<E> {
    /// An entry whose key is the very text asked for.
    Entry(E),
    /// Nothing yet, but somebody is filling it.
    Filling,
    /// Nothing.
    Nothing,
}

/// An entry that can be read.
pub trait Entry {
    /// The metadata given when it was filled.
    fn metadata(&self) -> &Bytes;
    /// The length of the body.
    fn length(&self) -> u64;
    /// The next part of the body from `offset`; empty at its end.
    ///
    /// # Errors
    /// The backend failed, or what it kept is shorter than it was.
    fn read(&self, offset: u64, most: usize) -> impl Future<Output = io::Result<Bytes>>;
}

/// An entry that is being written. Dropped before [`finish`](Fill::finish), it leaves nothing behind.
pub trait Fill {
    /// Appends to the body.
    ///
    /// # Errors
    /// The backend failed; the fill is of no further use.
    fn append(&mut self, data: Bytes) -> impl Future<Output = io::Result<()>>;
    /// Makes the entry visible.
    ///
    /// # Errors
    /// The backend failed; nothing is left behind.
    fn finish(self) -> impl Future<Output = io::Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    /// The smallest store there can be, to see that the traits fit together.
    #[derive(Default, Clone)]
    struct Memory(Rc<RefCell<HashMap<Key, (Bytes, Bytes)>>>);

    struct Kept(Bytes, Bytes);
    struct Filling(Memory, Key, Bytes, Vec<u8>);

    impl Store for Memory {
        type Entry = Kept;
        type Fill = Filling;

        async fn find(&self, key: &Key) -> io::Result<Found<Kept>> {
            Ok(self.0.borrow().get(key).map_or(Found::Nothing, |(m, b)| Found::Entry(Kept(m.clone(), b.clone()))))
        }

        async fn fill(&self, key: &Key, metadata: Bytes) -> io::Result<Filling> {
            Ok(Filling(self.clone(), key.clone(), metadata, Vec::new()))
        }

        async fn remove(&self, key: &Key) -> io::Result<()> {
            self.0.borrow_mut().remove(key);
            Ok(())
        }
    }

    impl Entry for Kept {
        fn metadata(&self) -> &Bytes {
            &self.0
        }

        fn length(&self) -> u64 {
            self.1.len() as u64
        }

        async fn read(&self, offset: u64, most: usize) -> io::Result<Bytes> {
            let start = usize::try_from(offset).unwrap().min(self.1.len());
            Ok(self.1.slice(start..self.1.len().min(start + most)))
        }
    }

    impl Fill for Filling {
        async fn append(&mut self, data: Bytes) -> io::Result<()> {
            self.3.extend_from_slice(&data);
            Ok(())
        }

        async fn finish(self) -> io::Result<()> {
            self.0.0.borrow_mut().insert(self.1, (self.2, self.3.into()));
            Ok(())
        }
    }

    fn now<F: Future>(future: F) -> F::Output {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("memory never waits"),
        }
    }

    #[test]
    fn a_dropped_fill_leaves_nothing_and_a_finished_one_is_found_by_its_whole_key() {
        let store = Memory::default();
        let key = Key::new(*b"http://a/");
        let mut fill = now(store.fill(&key, Bytes::from_static(b"head"))).unwrap();
        now(fill.append(Bytes::from_static(b"body"))).unwrap();
        drop(fill);
        assert!(matches!(now(store.find(&key)).unwrap(), Found::Nothing));

        let mut fill = now(store.fill(&key, Bytes::from_static(b"head"))).unwrap();
        now(fill.append(Bytes::from_static(b"body"))).unwrap();
        now(fill.finish()).unwrap();
        let Found::Entry(entry) = now(store.find(&key)).unwrap() else { panic!("it was filled") };
        assert_eq!((&entry.metadata()[..], entry.length()), (&b"head"[..], 4));
        assert_eq!(now(entry.read(1, 2)).unwrap(), "od");
        assert!(matches!(now(store.find(&Key::new(*b"http://b/"))).unwrap(), Found::Nothing));
        now(store.remove(&key)).unwrap();
        assert!(matches!(now(store.find(&key)).unwrap(), Found::Nothing));
    }
}
