//! The store that nodes share.

pub mod etcd;
