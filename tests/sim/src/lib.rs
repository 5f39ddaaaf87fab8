//! The simulated world, its model and checkers.
