//! Compression of large answers, for clients that take gzip.
//!
//! Guarantees: streams, whose size nobody knows, and small answers go as they are; a large one is
//! compressed piece by piece as its connection takes it, so that it takes no more memory than a
//! piece beside the answer itself, and other requests have their turn between two pieces.

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http_body_util::BodyExt;
use std::io::Write;

/// Answers of more bytes are compressed.
const THRESHOLD: u64 = 128 * 1024;
/// What is compressed at a time.
const PIECE: usize = 64 * 1024;

/// The answer as it is sent to a client that takes gzip.
pub(super) fn large(response: Response) -> Response {
    let done = response.headers().contains_key(CONTENT_ENCODING);
    if done || response.body().size_hint().lower() <= THRESHOLD {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(head, Body::from_stream(gzip(body)))
}

struct Gzip {
    body: Body,
    /// Of the body: taken and not yet compressed.
    rest: Bytes,
    /// `None` at the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

fn gzip(body: Body) -> impl Stream<Item = Result<Bytes, BoxError>> {
    // The level of Kubernetes' server: most of the gain for the least work.
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    let start = Gzip { body, rest: Bytes::new(), encoder };
    stream::try_unfold(start, |mut gzip| async move {
        let made = gzip.next().await?;
        Ok(made.map(|made| (made, gzip)))
    })
}

impl Gzip {
    /// The next compressed bytes, when there are some.
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            let Some(encoder) = &mut self.encoder else { return Ok(None) };
            if self.rest.is_empty() {
                match self.body.frame().await {
                    Some(frame) => self.rest = frame?.into_data().unwrap_or_default(),
                    None => {
                        let last = self.encoder.take().map(GzEncoder::finish).transpose()?;
                        return Ok(last.map(Bytes::from));
                    }
                }
                continue;
            }
            let piece = self.rest.split_to(PIECE.min(self.rest.len()));
            encoder.write_all(&piece)?;
            let made = std::mem::take(encoder.get_mut());
            tokio::task::yield_now().await;
            if !made.is_empty() {
                return Ok(Some(Bytes::from(made)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::convert::Infallible;
    use std::io::Read;

    async fn sent(body: Body) -> (bool, Vec<u8>) {
        let response = large(Response::new(body));
        let gzip = response.headers().get(CONTENT_ENCODING).is_some_and(|it| it == "gzip");
        assert_eq!(response.headers().contains_key(VARY), gzip);
        (gzip, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn what_is_large_is_compressed_and_comes_out_as_it_was() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for (size, expected) in [(0, false), (128 * 1024, false), (128 * 1024 + 1, true)]
            .into_iter()
            .chain([64 * 1024 * 3, 400_000].map(|size| (size, true)))
        {
            let (gzip, bytes) = sent(Body::from(text[..size].to_vec())).await;
            assert_eq!(gzip, expected, "{size}");
            let mut read = Vec::new();
            match gzip {
                true => drop(GzDecoder::new(&bytes[..]).read_to_end(&mut read).unwrap()),
                false => read = bytes,
            }
            assert!(read == text[..size], "{size}");
        }
    }

    #[tokio::test]
    async fn streams_go_as_they_are() {
        let parts = (0..10).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024])));
        let (gzip, bytes) = sent(Body::from_stream(stream::iter(parts))).await;
        assert_eq!((gzip, bytes.len()), (false, 640 * 1024));
    }
}
