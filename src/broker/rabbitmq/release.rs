//! What the server says of itself.
//!
//! A server introduces itself in its first frame, `connection.start`. lapin does not pass that on, so this
//! asks on a connection of its own and hangs up after the answer. It is done when somebody asks, or when
//! there is something to declare; a worker on a complete topology never needs it.

use lapin::tcp::AMQPUriTcpExt;
use std::io::{self, Read, Write};
use std::time::Duration;

use super::settings::ServerAddress;
use crate::broker::BrokerError;

/// A first frame is a few hundred bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// A server's product and version: `RabbitMQ 4.3.6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Introduction {
    pub(super) product: String,
    pub(super) version: String,
}

/// Asks the first server that answers.
pub(super) async fn ask(addresses: &[ServerAddress], timeout: Duration) -> Result<Introduction, BrokerError> {
    let mut last = None;
    for address in addresses {
        let uri = address.uri.clone();
        // Blocking: a handful of bytes, once, and TLS as lapin does it.
        let asked = tokio::task::spawn_blocking(move || -> io::Result<Introduction> {
            let mut stream = uri.connect().map_err(|error| io::Error::other(error.to_string()))?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            stream.write_all(b"AMQP\x00\x00\x09\x01")?;
            introduction(&read_frame(&mut stream)?)
        });
        let reason = match asked.await {
            Ok(Ok(introduction)) => return Ok(introduction),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        last = Some(BrokerError::Unreachable { url: address.masked.clone(), reason });
    }
    Err(last.expect("the settings have at least one address"))
}

/// The payload of one frame: type, channel, size, payload, end.
fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if head[0] != 1 || size > FRAME_BYTES_MAX {
        return Err(io::Error::other("this is not an AMQP 0-9-1 server"));
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

/// Reads `connection.start`: class 10, method 10, two bytes of protocol version, the properties.
fn introduction(payload: &[u8]) -> io::Result<Introduction> {
    let table = payload.strip_prefix(&[0, 10, 0, 10, 0, 9]).and_then(|rest| rest.get(4..));
    let table = table.ok_or_else(|| io::Error::other("the server's first frame is not connection.start"))?;
    let property = |name: &str| text_property(table, name).unwrap_or_default();
    Ok(Introduction { product: property("product"), version: property("version") })
}

/// The text property `name`: its name with the length before, `S`, four bytes of length, the text. The
/// properties we ask for are unique, and the table's other values need not be understood to find them.
fn text_property(table: &[u8], name: &str) -> Option<String> {
    let mut key = vec![u8::try_from(name.len()).ok()?];
    key.extend_from_slice(name.as_bytes());
    key.push(b'S');
    let at = table.windows(key.len()).position(|window| window == key)? + key.len();
    let length = table.get(at..at + 4)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    String::from_utf8(table.get(at + 4..at + 4 + length)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_first_frame() {
        let mut payload = vec![0, 10, 0, 10, 0, 9, 0, 0, 0, 60];
        for (name, value) in [("copyright", "x"), ("product", "RabbitMQ"), ("version", "3.10.8")] {
            payload.push(name.len() as u8);
            payload.extend_from_slice(name.as_bytes());
            payload.push(b'S');
            payload.extend_from_slice(&(value.len() as u32).to_be_bytes());
            payload.extend_from_slice(value.as_bytes());
        }
        let mut frame = vec![1, 0, 0];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(&payload);
        let read = introduction(&read_frame(&mut frame.as_slice()).expect("a frame")).expect("a start");
        assert_eq!(read, Introduction { product: "RabbitMQ".to_owned(), version: "3.10.8".to_owned() });
    }

    #[test]
    fn another_kind_of_server_is_recognised() {
        assert!(read_frame(&mut b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice()).is_err());
        assert!(introduction(&[0, 10, 0, 11]).is_err());
        assert!(introduction(&[0, 10, 0, 10, 0, 9]).is_err());
    }
}
