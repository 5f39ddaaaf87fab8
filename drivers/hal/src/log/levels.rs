//! How much is logged, by module.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem;

use ::log::LevelFilter;

/// Levels of modules, and of the others.
pub struct Levels {
    others: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
}

impl Levels {
    pub const fn new() -> Self {
        Self {
            others: LevelFilter::Info,
            modules: Vec::new(),
        }
    }

    /// Sets all of them; what there was is returned, to be freed by who holds no lock.
    pub fn replace(
        &mut self,
        others: LevelFilter,
        modules: Vec<(String, LevelFilter)>,
    ) -> Vec<(String, LevelFilter)> {
        self.others = others;
        mem::replace(&mut self.modules, modules)
    }

    pub fn get(&self) -> (LevelFilter, Vec<(String, LevelFilter)>) {
        (self.others, self.modules.clone())
    }

    /// The level of a target like `store::checkpoint`: that of `checkpoint`, or else of `store`, or else of the others.
    pub fn of(&self, target: &str) -> LevelFilter {
        if self.modules.is_empty() {
            return self.others;
        }
        let named = |part: &str| self.modules.iter().find(|(module, _)| module == part);
        let found = target.rsplit("::").find_map(named);
        found.map_or(self.others, |(_, level)| *level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_module_comes_before_its_room() {
        let mut levels = Levels::new();
        assert_eq!(levels.of("store::checkpoint"), LevelFilter::Info);
        let modules = vec![
            ("store".into(), LevelFilter::Debug),
            ("checkpoint".into(), LevelFilter::Off),
        ];
        levels.replace(LevelFilter::Warn, modules);
        assert_eq!(levels.of("store::checkpoint"), LevelFilter::Off);
        assert_eq!(levels.of("store::check::walk"), LevelFilter::Debug);
        assert_eq!(levels.of("store"), LevelFilter::Debug);
        assert_eq!(levels.of("storekeeper"), LevelFilter::Warn);
        assert_eq!(levels.of(""), LevelFilter::Warn);
    }
}
