//! Numbers for the names of transaction variables.
//!
//! `TX` is by far the variable rules use most. Every name that occurs in the
//! rules gets a number when they are loaded, so that none is looked up by its
//! text while a request is judged.

use std::collections::HashMap;

/// Names in small letters and their numbers.
#[derive(Debug, Default, Clone)]
pub struct Names {
    numbers: HashMap<Box<[u8]>, u32>,
    names: Vec<Box<[u8]>>,
}

impl Names {
    /// The number of a name, a new one if it has none.
    pub fn number(&mut self, name: &[u8]) -> u32 {
        let name = name.to_ascii_lowercase().into_boxed_slice();
        if let Some(&number) = self.numbers.get(&name) {
            return number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    /// The number of a name in small letters, if it has one.
    pub fn known(&self, name: &[u8]) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name with this number.
    pub fn name(&self, number: u32) -> &[u8] {
        &self.names[number as usize]
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks whether there are none")]
    pub fn len(&self) -> usize {
        self.names.len()
    }
}
