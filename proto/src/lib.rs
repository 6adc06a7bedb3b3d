//! gRPC contracts: between our own processes, and of a country's own service behind the gateway. The code under `gen/` is generated and checked in, so that nobody needs a
//! protobuf compiler; `tests/bootstrap.rs` fails when it is not fresh (`UPDATE_GEN=1` rewrites it).

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    pub(crate) mod audit {
        include!("gen/ncp.audit.v1.rs");
    }
    pub(crate) mod national {
        include!("gen/ncp.national.v1.rs");
    }
    pub(crate) mod translation {
        include!("gen/ncp.translation.v1.rs");
    }
}

pub mod codec;
/// What of each message takes memory beside its bytes.
mod shapes {
    use crate::codec::{Field, Shape, Shaped};
    include!("gen/shapes.rs");
}

/// `ncp.audit.v1`: the acknowledged feed and the query.
pub mod audit {
    pub use crate::generated::audit::*;
}

/// `ncp.national.v1`: what a country implements to put its own systems behind the gateway.
pub mod national {
    pub use crate::generated::national::*;

    /// Bytes of one message at most, either way: metadata of one document or study, what one patient has blocked, or a piece
    /// of content.
    pub const MESSAGE_BYTES: usize = 16 << 20;
}

/// `ncp.translation.v1`: the terminology service.
pub mod translation {
    pub use crate::generated::translation::*;

    /// Bytes of one request message at most: a batch of codes or a piece of a document.
    pub const REQUEST_BYTES: usize = 4 << 20;
    /// Bytes of one message of an answer at most.
    pub const ANSWER_BYTES: usize = 16 << 20;
}

/// Descriptors for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
