//! The whole system by capability; one binary, because each one costs a link.

mod architecture;
mod embedded;
mod refused;
mod support;
