//! What a bowline API object is: resource table, defaulting, validation, selectors, quantities, patches.
