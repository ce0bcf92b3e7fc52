//! The bowline scheduler: queue, filter, score, bind.
