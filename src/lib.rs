//! Gleitzeit runs tasks and workflows over RabbitMQ and Redis, or over one embedded file.
