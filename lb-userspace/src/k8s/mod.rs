//! TBD k8s
