//! Tests in the kernel.
