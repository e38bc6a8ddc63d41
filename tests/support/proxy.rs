//! A wire that can be cut: passes everything on to a server until told otherwise.

use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between a client and a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The server's address with the proxy in its place.
    pub(crate) url: String,
    wire: Arc<watch::Sender<Wire>>,
    /// Ends with us, and with it everything that it passes on.
    _listening: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Wire {
    cuts: u32,
    silences: u32,
    silent: bool,
    refuses: bool,
}

impl Proxy {
    /// Stands before the server of `url` (`scheme://[login@]host:port[/...]`).
    pub(crate) async fn start(url: &str) -> Proxy {
        let (scheme, rest) = url.split_once("://").expect("an address");
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let at = if login.is_empty() { "" } else { "@" };
        let wire = Arc::new(watch::Sender::new(Wire::default()));
        let mut listening = JoinSet::new();
        listening.spawn(listen(listener, server.to_owned(), wire.clone()));
        Proxy { url: format!("{scheme}://{login}{at}{address}/{path}"), wire, _listening: listening }
    }

    /// Cuts every connection that there is.
    pub(crate) fn cut(&self) {
        self.wire.send_modify(|wire| wire.cuts += 1);
    }

    /// From now on swallows everything without a word; or no more, but what was open then stays silent.
    pub(crate) fn silence(&self, silent: bool) {
        self.wire.send_modify(|wire| {
            wire.silent = silent;
            wire.silences += u32::from(silent);
        });
    }

    /// From now on closes new connections at once, or no more.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.wire.send_modify(|wire| wire.refuses = refuses);
    }
}

async fn listen(listener: TcpListener, server: String, wire: Arc<watch::Sender<Wire>>) {
    let mut passing = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if !wire.borrow().refuses {
            passing.spawn(pass(client, server.clone(), wire.subscribe()));
        }
    }
}

async fn pass(mut client: TcpStream, server: String, mut wire: watch::Receiver<Wire>) {
    let Wire { cuts, silences, silent, .. } = *wire.borrow();
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    if !silent {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
            _ = wire.wait_for(|wire| wire.cuts != cuts || wire.silences != silences) => {}
        }
    }
    // Silent ones stay open, and the system goes on acknowledging what comes.
    let _ = wire.wait_for(|wire| wire.cuts != cuts).await;
}
