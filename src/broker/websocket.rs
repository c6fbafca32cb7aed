//! MQTT inside WebSocket binary messages (5.0, 6): a stream of bytes again, so that the rest need not know.
//! The handshake insists on path `/mqtt`, subprotocol `mqtt`, and a page of the same host or one that is named.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::Bytes;
use futures_util::Sink;
use futures_util::Stream;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::ErrorResponse;
use tokio_tungstenite::tungstenite::handshake::server::Request;
use tokio_tungstenite::tungstenite::handshake::server::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Most bytes of one outgoing message.
const MESSAGE: usize = 64 * 1024;

/// A WebSocket as a byte stream.
#[derive(Debug)]
pub(super) struct WebSocket<S> {
    inner: WebSocketStream<S>,
    unread: Bytes,
}

/// Does the handshake; `packet` bounds what one message may hold, pages of `origins` are welcome.
pub(super) async fn accept<S>(stream: S, packet: usize, origins: &[Arc<str>]) -> Result<WebSocket<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MESSAGE)
        .max_message_size(Some(packet + MESSAGE))
        .max_frame_size(Some(packet + MESSAGE));
    #[expect(clippy::result_large_err, reason = "the library's signature")]
    let greet = |request: &Request, response: Response| greet(request, response, origins);
    let inner = tokio_tungstenite::accept_hdr_async_with_config(stream, greet, Some(config)).await?;
    Ok(WebSocket { inner, unread: Bytes::new() })
}

#[expect(clippy::result_large_err, reason = "the library's signature")]
fn greet(request: &Request, mut response: Response, origins: &[Arc<str>]) -> Result<Response, ErrorResponse> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if request.uri().path() != "/mqtt" {
        return Err(refusal(StatusCode::NOT_FOUND, "MQTT is at /mqtt"));
    }
    if header("origin").is_some_and(|origin| !is_welcome(origin, header("host"), origins)) {
        return Err(refusal(StatusCode::FORBIDDEN, "a page of another host; name it in `origins` of the listener"));
    }
    let offered = header("sec-websocket-protocol").unwrap_or_default();
    // MQTT-6.0.0-4; `mqttv3.1` is what clients of 3.1 offer, some of them beside the other.
    let offers = |wanted: &str| offered.split(',').any(|name| name.trim() == wanted);
    let Some(value) = ["mqtt", "mqttv3.1"].into_iter().find(|name| offers(name)) else {
        return Err(refusal(StatusCode::BAD_REQUEST, "the subprotocol is mqtt"));
    };
    response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(value));
    Ok(response)
}

fn refusal(status: StatusCode, why: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(why.to_owned()));
    *response.status_mut() = status;
    response
}

fn is_welcome(origin: &str, host: Option<&str>, origins: &[Arc<str>]) -> bool {
    origins.iter().any(|welcome| origin.eq_ignore_ascii_case(welcome)) || is_same_host(origin, host)
}

/// A browser names the page's origin; another site's page may not use the visitor's way to this broker. Ports may differ:
/// the page and the broker are two listeners of one box.
fn is_same_host(origin: &str, host: Option<&str>) -> bool {
    let bare = |text: &str| {
        let text = text.rsplit_once("://").map_or(text, |(_, rest)| rest).to_ascii_lowercase();
        match text.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
            _ => text,
        }
    };
    host.is_some_and(|host| bare(host) == bare(origin))
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::Error::other("a text message"))),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = self.unread.len().min(into.remaining());
        into.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(broken)?;
        let count = bytes.len().min(MESSAGE);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..count]));
        Pin::new(&mut self.inner).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.inner).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_host_may_not_come_in() {
        assert!(is_same_host("http://box:8080", Some("box:8083")));
        assert!(is_same_host("http://[::1]:8080", Some("[::1]:8083")));
        assert!(!is_same_host("https://evil.example", Some("127.0.0.1:8083")));
        assert!(!is_same_host("null", Some("127.0.0.1")));
        assert!(!is_same_host("http://box", None));
    }

    #[test]
    fn a_page_that_is_named_may_come_in_and_no_other_that_looks_like_it() {
        let named = [Arc::from("https://hmi.example.com"), Arc::from("http://10.0.0.5:8080")];
        for welcome in ["https://hmi.example.com", "HTTPS://HMI.example.com", "http://10.0.0.5:8080", "http://box"] {
            assert!(is_welcome(welcome, Some("box:8083"), &named), "{welcome}");
        }
        for foreign in
            ["http://hmi.example.com", "https://hmi.example.com.evil.example", "http://10.0.0.5", "null", "file://"]
        {
            assert!(!is_welcome(foreign, Some("box:8083"), &named), "{foreign}");
        }
    }
}
