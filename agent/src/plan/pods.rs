//! Plan of the pods of this node.
