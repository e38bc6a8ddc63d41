//! Where the store is: one server, the master that Sentinels name, or a Cluster.
//!
//! ```text
//! redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]
//! redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT].../MASTER[/DATABASE][?sentinel_user=..&sentinel_password=..]
//! redis+cluster://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT]...
//! ```
//! `rediss` instead of `redis` is TLS, to Sentinels too. The login is that of the servers; Sentinels are asked
//! without one unless the query has it.

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisError, Value,
};
use std::time::Duration;

/// How long it may take until a connection stands that was there before: then another server may be the one.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first connection of a process may take. It is tried once, and a busy machine is no reason to fail.
pub(super) const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one Sentinel may take; then the next one is asked.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Servers, and how to find the one to talk to.
#[derive(Clone)]
pub(super) enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// The server that Sentinels call the master of this name. `server` has everything of it but its address.
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, server: ConnectionInfo },
    /// Nodes of one Cluster, some of them.
    Cluster(Vec<ConnectionInfo>),
}

impl Address {
    /// Reads an address. The error says what it should look like, and nothing of the address.
    pub(super) fn parse(url: &str) -> Result<Address, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let tls = if scheme.starts_with("rediss") { "rediss" } else { "redis" };
        match scheme {
            "redis+sentinel" | "rediss+sentinel" => sentinel(tls, rest),
            "redis+cluster" | "rediss+cluster" => {
                let Parts { login, hosts, .. } = Parts::of(rest);
                let nodes = hosts.iter().map(|host| node(tls, login, &with_port(host, 6379), ""));
                Ok(Address::Cluster(nodes.collect::<Result<_, String>>()?))
            }
            _ => Ok(Address::Server(read(url)?)),
        }
    }

    /// One connection to a server that takes writes; in a Cluster, to any node that belongs to it.
    pub(super) async fn dial(
        &self,
        config: AsyncConnectionConfig,
        patience: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        match self {
            // A server that still loads its data takes connections, and answers nothing else.
            Address::Server(server) => {
                let mut connection = connect(server, config, patience).await?;
                self.check(&mut connection).await?;
                Ok(connection)
            }
            Address::Sentinel { sentinels, master, server } => {
                let address = find(sentinels, master).await?;
                let server = server.clone().set_addr(at(server.addr(), address));
                let mut connection = connect(&server, config, patience).await?;
                self.check(&mut connection).await?;
                Ok(connection)
            }
            Address::Cluster(nodes) => {
                let mut last = failure("no node of the cluster is configured", String::new());
                for node in nodes {
                    match connect(node, config.clone(), patience).await {
                        Ok(mut connection) => match self.check(&mut connection).await {
                            Ok(()) => return Ok(connection),
                            Err(error) => last = error,
                        },
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// Whether the server at the other end still is one to talk to, and not only alive.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        match self {
            Address::Server(_) => redis::cmd("PING").query_async::<Value>(connection).await.map(|_| ()),
            Address::Sentinel { .. } => {
                let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
                let role = role.first().and_then(|role| redis::from_redis_value_ref::<String>(role).ok());
                match role.as_deref() {
                    Some("master") => Ok(()),
                    other => Err(failure("it is not the master (any more)", other.unwrap_or("").to_owned())),
                }
            }
            Address::Cluster(_) => {
                let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(connection).await?;
                if info.contains("cluster_state:ok") {
                    return Ok(());
                }
                Err(failure("the cluster is down", String::new()))
            }
        }
    }

    /// Whether a server that turns out to be a replica is a reason to look for the master again.
    pub(super) fn has_failover(&self) -> bool {
        matches!(self, Address::Sentinel { .. })
    }
}

/// What keeps a connection honest: an idle one that is cut without a word is noticed after about 15 s, a busy
/// one after 10 s.
pub(super) fn tcp() -> TcpSettings {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(5));
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(Duration::from_secs(10))
}

/// The times of every connection; `patience` is how long it may take until it stands.
pub(super) fn timed(config: AsyncConnectionConfig, patience: Duration) -> AsyncConnectionConfig {
    config.set_connection_timeout(Some(patience)).set_response_timeout(Some(RESPONSE_TIMEOUT))
}

async fn connect(
    server: &ConnectionInfo,
    config: AsyncConnectionConfig,
    patience: Duration,
) -> Result<MultiplexedConnection, RedisError> {
    let config = timed(config, patience);
    Client::open(server.clone())?.get_multiplexed_async_connection_with_config(&config).await
}

/// Asks one Sentinel after the other where the master is.
async fn find(sentinels: &[ConnectionInfo], master: &str) -> Result<(String, u16), RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SENTINEL_TIMEOUT))
        .set_response_timeout(Some(SENTINEL_TIMEOUT));
    let mut last = failure("no sentinel is configured", String::new());
    for sentinel in sentinels {
        let asked = async {
            let client = Client::open(sentinel.clone())?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            ask.query_async::<Option<(String, u16)>>(&mut connection).await
        };
        match asked.await {
            Ok(Some(address)) => return Ok(address),
            Ok(None) => last = failure("the sentinels know no master of this name", master.to_owned()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The address of a server beside another one, with the same TLS.
fn at(like: &ConnectionAddr, (host, port): (String, u16)) -> ConnectionAddr {
    match like {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

fn failure(what: &'static str, detail: String) -> RedisError {
    RedisError::from((ErrorKind::Io, what, detail))
}

/// An address behind its scheme.
struct Parts<'a> {
    login: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Parts<'a> {
        // The last `@` counts: a password that was not percent-encoded may hold others.
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
        Parts { login, hosts, path, query }
    }
}

fn sentinel(tls: &str, rest: &str) -> Result<Address, String> {
    let Parts { login, hosts, path, query } = Parts::of(rest);
    let (master, database) = path.split_once('/').unwrap_or((path, ""));
    if hosts.is_empty() || master.is_empty() {
        return Err(
            "the address must look like redis+sentinel://:PASSWORD@HOST:26379,HOST:26379/MASTER".to_owned()
        );
    }
    let asked = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    let (user, password) = (asked("sentinel_user"), asked("sentinel_password"));
    let own = if password.is_empty() { String::new() } else { format!("{user}:{password}") };
    let mut sentinels = Vec::new();
    for host in &hosts {
        let info = node(tls, &own, &with_port(host, 26379), "")?;
        // Not every Sentinel knows the third protocol.
        let plain = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        sentinels.push(info.set_redis_settings(plain));
    }
    // Sentinels say the host and the port.
    let server = node(tls, login, "sentinel-says", database)?;
    Ok(Address::Sentinel { sentinels, master: master.to_owned(), server })
}

fn node(tls: &str, login: &str, host: &str, database: &str) -> Result<ConnectionInfo, String> {
    let at = if login.is_empty() { "" } else { "@" };
    read(&format!("{tls}://{login}{at}{host}/{database}"))
}

fn read(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|_| {
        "the address must look like redis://:PASSWORD@HOST:PORT/DATABASE, redis+sentinel://HOST,HOST/MASTER or \
         redis+cluster://HOST,HOST"
            .to_owned()
    })?;
    // The third protocol tells us of a broken connection before the next command would.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_tcp_settings(tcp()).set_redis_settings(redis))
}

fn with_port(host: &str, port: u16) -> String {
    let name_end = host.rfind(']').unwrap_or(0);
    if host[name_end..].contains(':') { host.to_owned() } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(info: &ConnectionInfo) -> String {
        let redis = info.redis_settings();
        format!("{} {:?} {:?} {}", info.addr(), redis.username(), redis.password(), redis.db())
    }

    #[test]
    fn a_sentinel_address_names_sentinels_master_and_database() {
        let url = "redis+sentinel://me:s%2Fcret@a,b:1/mine/3?sentinel_password=other";
        let Ok(Address::Sentinel { sentinels, master, server }) = Address::parse(url) else { panic!("read") };
        let sentinels: Vec<String> = sentinels.iter().map(shown).collect();
        assert_eq!(sentinels, ["a:26379 None Some(\"other\") 0", "b:1 None Some(\"other\") 0"]);
        assert_eq!(master, "mine");
        let server = server.clone().set_addr(at(server.addr(), ("c".to_owned(), 7)));
        assert_eq!(shown(&server), "c:7 Some(\"me\") Some(\"s/cret\") 3");
    }

    #[test]
    fn a_cluster_address_names_its_nodes() {
        let Ok(Address::Cluster(nodes)) = Address::parse("rediss+cluster://:s3cret@a:7000, [::1]") else {
            panic!("read")
        };
        assert_eq!(nodes.len(), 2);
        assert!(nodes.iter().all(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. })));
        assert!(nodes.iter().all(|node| node.redis_settings().password() == Some("s3cret")));
    }

    #[test]
    fn an_address_that_cannot_be_read_is_refused_without_its_password() {
        for url in ["redis+sentinel://:s3cret@h:1", "redis+cluster://:s3cret@h:port", "http://:s3cret@h", ""]
        {
            let error = Address::parse(url).err().unwrap_or_else(|| panic!("{url} was read"));
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
