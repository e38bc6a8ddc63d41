//! The whole system by capability; one binary, because each one costs a link.

mod architecture;
mod audit;
mod batch;
mod bench;
mod blame;
mod chaos;
mod control;
mod dead;
mod depth;
mod distributed;
mod docs;
mod drain;
mod embedded;
mod examples;
mod failover;
mod fairness;
mod follow;
mod following;
mod golden;
mod guard;
mod headers;
mod heir;
#[path = "../support/http_server.rs"]
mod http_server;
mod letters;
mod limits;
mod live;
mod llama;
mod mcp;
mod migrate;
mod mutants;
mod ollama;
#[path = "../support/ollama.rs"]
mod ollama_server;
mod openai;
#[path = "../support/openai.rs"]
mod openai_server;
mod original;
mod outages;
mod own;
mod place;
mod producers;
mod providers;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/rabbitmq.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod rabbitmq;
mod refused;
mod reload;
mod replicas;
mod resources;
mod rpc;
mod rust_provider;
mod schedule;
mod schema;
mod sizes;
mod stats;
mod support;
mod times;
mod topology;
mod upgrade;
#[path = "../support/wall_clock.rs"]
mod wall_clock;
mod wire;
mod workflows;
