//! A value that a directive may set once per block, and how inner blocks inherit from outer ones.

/// How a block's settings complete themselves from the block around it, written once for everything.
pub trait Inherit {
    /// Takes from `outer` what `self` has not set.
    fn inherit(&mut self, outer: &Self);
}

/// A directive's value in one block: unset until the directive appears or is inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T>(Option<T>);

impl<T> Default for Setting<T> {
    fn default() -> Self {
        Setting(None)
    }
}

impl<T: Clone> Setting<T> {
    /// A setting with a value, for tests and for defaults that are themselves settings.
    pub fn of(value: T) -> Self {
        Setting(Some(value))
    }

    /// Sets the value. `Err` when the block has set it already: nginx's "is duplicate".
    pub fn set(&mut self, value: T) -> Result<(), super::Refusal> {
        match self.0 {
            Some(_) => Err("is duplicate".into()),
            None => {
                self.0 = Some(value);
                Ok(())
            }
        }
    }

    /// The value, if set here or inherited.
    pub fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// The value or the directive's default.
    pub fn or(&self, default: T) -> T {
        self.0.clone().unwrap_or(default)
    }

    /// True when the directive has appeared.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }
}

impl<T: Clone> Inherit for Setting<T> {
    fn inherit(&mut self, outer: &Self) {
        if self.0.is_none() {
            self.0.clone_from(&outer.0);
        }
    }
}

/// Lists are inherited whole, and only by a block that has no entry of its own.
impl<T: Clone> Inherit for Vec<T> {
    fn inherit(&mut self, outer: &Self) {
        if self.is_empty() {
            self.clone_from(outer);
        }
    }
}

/// Implements [`Inherit`] field by field. Every field must be listed: before `own` those that are inherited, behind it
/// those that belong to one block alone.
#[macro_export]
macro_rules! inherit {
    ($conf:ty { $($field:ident),* $(,)? }) => { $crate::inherit!($conf { $($field),* } own {}); };
    ($conf:ty { $($field:ident),* $(,)? } own { $($own:ident),* $(,)? }) => {
        impl $crate::conf::Inherit for $conf {
            #[allow(unused_variables)]
            fn inherit(&mut self, outer: &Self) {
                let Self { $($field: _,)* $($own: _,)* } = self;
                $($crate::conf::Inherit::inherit(&mut self.$field, &outer.$field);)*
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_values_win_and_lists_replace_whole() {
        #[derive(Default)]
        struct Conf {
            flag: Setting<bool>,
            list: Vec<u8>,
            mine: Option<u8>,
        }
        inherit!(Conf { flag, list } own { mine });
        let outer = Conf { flag: Setting::of(true), list: vec![1, 2], mine: Some(1) };
        let mut empty = Conf::default();
        empty.inherit(&outer);
        assert_eq!((empty.flag.or(false), empty.list, empty.mine), (true, vec![1, 2], None));
        let mut full = Conf { flag: Setting::of(false), list: vec![3], mine: None };
        full.inherit(&outer);
        assert_eq!((full.flag.or(true), full.list), (false, vec![3]));
    }

    #[test]
    fn setting_twice_is_duplicate() {
        let mut setting = Setting::of(1);
        assert_eq!(setting.set(2), Err("is duplicate".into()));
    }
}
