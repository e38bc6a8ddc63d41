//! Every port's law, proved for every adapter: cases x backends, each declared once as data.
//!
//! The embedded adapters always run. The servers' adapters run where `GLEITZEIT_AMQP_URL` and
//! `GLEITZEIT_REDIS_URL` name servers (`scripts/stack start` prints them); without, they show as ignored,
//! and with `CI=true` they fail.

mod broker;
#[path = "../support/proxy.rs"]
mod proxy;
mod store;
#[path = "../support/wall_clock.rs"]
mod wall_clock;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(broker::trials());
    trials.extend(store::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
