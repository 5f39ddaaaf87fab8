//! Boxes that go round: what a request needs beside its buffer is too large to move from future to future, and a
//! request should not allocate.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Boxes that wait here at most; more are given back to the heap.
const WAITING_MAX: usize = 256;

/// Boxes that nobody uses at the moment. What is in them is left over from whoever used them last.
#[derive(Default)]
pub struct Shelf<T> {
    waiting: RefCell<Vec<Box<T>>>,
}

impl<T: Default> Shelf<T> {
    pub fn take(&self) -> Box<T> {
        self.waiting.borrow_mut().pop().unwrap_or_default()
    }

    pub fn put(&self, one: Box<T>) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < WAITING_MAX {
            waiting.push(one);
        }
    }
}
