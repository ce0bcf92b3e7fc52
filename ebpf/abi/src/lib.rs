//! Map keys, values, limits and drop reasons shared by kernel and user side.
