//! Paths from a certificate to a root.

use openssl::stack::Stack;
use openssl::x509::store::X509Store;
use openssl::x509::{X509, X509Ref, X509StoreContext, X509VerifyResult};

/// Paths tried for one certificate, and their intermediates at most.
const PATHS: usize = 16;
const DEPTH: usize = 4;

/// The path that OpenSSL builds with these intermediates.
pub(crate) fn path_through(
    store: &X509Store,
    certificate: &X509Ref,
    links: &[X509],
) -> Result<Vec<X509>, X509VerifyResult> {
    let failed = |_| X509VerifyResult::APPLICATION_VERIFICATION;
    let mut helpers = Stack::new().map_err(failed)?;
    for link in links {
        helpers.push(link.clone()).map_err(failed)?;
    }
    let mut context = X509StoreContext::new().map_err(failed)?;
    let (good, reason, chain) = context
        .init(store, certificate, &helpers, |context| {
            let good = context.verify_cert()?;
            let chain = context.chain().map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
            Ok((good, context.error(), chain))
        })
        .map_err(failed)?;
    if good { Ok(chain) } else { Err(reason) }
}

fn same(one: &X509Ref, other: &X509Ref) -> bool {
    one.to_der().is_ok_and(|der| other.to_der().is_ok_and(|other| der == other))
}

/// Lists of intermediates that name one another as issuers, from the certificate on: so many at most.
pub(crate) fn alternatives(certificate: &X509Ref, links: &[X509]) -> Vec<Vec<X509>> {
    let mut open: Vec<Vec<X509>> = vec![Vec::new()];
    let mut whole = Vec::new();
    while let Some(path) = open.pop() {
        let last: &X509Ref = path.last().map_or(certificate, |link| link);
        let issuers = links.iter().filter(|link| {
            let seen = path.iter().any(|before| same(before, link));
            !seen && link.issued(last) == X509VerifyResult::OK
        });
        let longer: Vec<Vec<X509>> =
            issuers.map(|issuer| [path.as_slice(), std::slice::from_ref(issuer)].concat()).collect();
        if longer.is_empty() || path.len() >= DEPTH {
            whole.push(path);
        } else {
            open.extend(longer);
        }
        if whole.len() >= PATHS || open.len() >= PATHS {
            break;
        }
    }
    whole
}
