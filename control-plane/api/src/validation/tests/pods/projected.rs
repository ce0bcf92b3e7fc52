pub(super) const ALL: &[fn()] = &[];
