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

/// `ncp.audit.v1`: the acknowledged feed and the query.
pub mod audit {
    pub use crate::generated::audit::*;
}

/// `ncp.national.v1`: what a country implements to put its own systems behind the gateway.
pub mod national {
    pub use crate::generated::national::*;
}

/// `ncp.translation.v1`: the terminology service.
pub mod translation {
    pub use crate::generated::translation::*;
}

/// Descriptors for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
