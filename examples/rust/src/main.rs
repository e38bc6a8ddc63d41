//! A worker with a provider of its own, in Rust: async functions and their serde types.
//!
//! ```sh
//! cargo run                       # works, as `gleitzeit worker` does, with the same configuration
//! cargo run -- protocol           # prints the protocol's file, for `protocols.folder` of whoever sends tasks
//! ```

use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::protocol::Source;
use gleitzeit::provider::CallCx;
use gleitzeit::provider::functions::Functions;
use gleitzeit::worker::Worker;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

/// What the weather will be.
#[derive(Deserialize, JsonSchema)]
struct Forecast {
    /// Where.
    #[schemars(length(min = 1))]
    city: String,
    /// For how many days.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 14))]
    days: u32,
}

#[derive(Serialize, JsonSchema)]
struct Weather {
    city: String,
    days: Vec<String>,
}

fn three() -> u32 {
    3
}

async fn forecast(cx: CallCx, asked: Forecast) -> Result<Weather, Failure> {
    if asked.city == "Atlantis" {
        // The code says whether it is tried again: this one is the caller's mistake, and is not.
        return Err(Failure::new(Code::InvalidParams, "there is no weather under water"));
    }
    // Whatever awaits ends where it awaits when the task is cancelled or its time is over.
    tokio::task::yield_now().await;
    let days = (1..=asked.days).map(|day| format!("day {day}: as before (attempt {})", cx.attempt));
    Ok(Weather { city: asked.city, days: days.collect() })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let weather =
        Functions::new("weather/v1".parse()?).describe("Knows no weather").function("forecast", forecast);
    if std::env::args().nth(1).as_deref() == Some("protocol") {
        let Source { text, .. } = weather.source()?;
        print!("{text}");
        return Ok(());
    }
    let service = Worker::builder().functions(weather).start().await?;
    eprintln!("worker {}", service.session());
    let mut terminated = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    service.run(stop).await?;
    Ok(())
}
