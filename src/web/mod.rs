//! HTTP for machines: `/healthz` says in words what is wrong, `/metrics` gives Prometheus the numbers.
//! Reads the [`Board`] and changes nothing. The page for people comes later; `/` says where to look until then.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::status::Board;

pub mod health;
pub mod metrics;

/// Why there is no web server.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The port belongs to another program.
    #[error("web.listen: {0} is taken by another program; stop it, or choose another port in `web: {{listen: …}}`")]
    InUse(SocketAddr),
    /// The system refuses.
    #[error("web.listen: cannot listen on {0}: {1}")]
    Io(SocketAddr, io::Error),
}

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds; answers nothing until [`Server::run`].
    pub async fn bind(addr: SocketAddr) -> Result<Self, WebError> {
        let listener = TcpListener::bind(addr).await.map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => WebError::InUse(addr),
            _ => WebError::Io(addr, e),
        })?;
        Ok(Self { listener })
    }

    /// The address really bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`.
    pub async fn run(self, board: Board, stop: CancellationToken) {
        let served = axum::serve(self.listener, routes(board)).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::warn!(%error, "web server ended");
        }
    }
}

fn routes(board: Board) -> Router {
    Router::new()
        .route("/", get(pointer))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .with_state(board)
}

async fn pointer(State(board): State<Board>) -> String {
    let now = board.snapshot();
    format!(
        "trunkline {} at {}\n\n/healthz   200 when values flow, 503 and the reasons when they do not\n\
         /metrics   for Prometheus\n\nOn the machine itself: trunkline status\n",
        now.version, now.gateway
    )
}

async fn healthz(State(board): State<Board>) -> impl IntoResponse {
    let health = health::judge(&board.snapshot());
    let code = if health.is_well() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, health.to_string())
}

async fn metrics_text(State(board): State<Board>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&board.snapshot()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let taken = first.local_addr().unwrap();
        let error = Server::bind(taken).await.unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()) && error.contains("taken"), "{error}");
    }
}
