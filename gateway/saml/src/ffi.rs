//! libxmlsec1 behind two functions. The wrapper crate loads keys and owns the context; what it lacks (allowed
//! transforms, reference types, pre-digest bytes) is done here on its raw pointers.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Once;

use xmlsec::bindings as c;
use xmlsec::{XmlSecKey, XmlSecKeyFormat, XmlSecSignatureContext};

use crate::AssertionError as E;

/// A key of libxmlsec1: never leaves the thread that made it.
pub(crate) struct Key(Option<XmlSecKey>);

impl Key {
    /// A private key, PKCS#8 PEM without encryption (the wrapper's password argument is unsound).
    pub(crate) fn private(pem: &[u8]) -> Result<Self, E> {
        quiet();
        XmlSecKey::from_memory(pem, XmlSecKeyFormat::Pem, None)
            .map(|key| Self(Some(key)))
            .map_err(|_| E::Unavailable("seal key was not loaded"))
    }

    /// The public key of a certificate, DER.
    pub(crate) fn of_certificate(der: &[u8]) -> Result<Self, E> {
        quiet();
        XmlSecKey::from_memory(der, XmlSecKeyFormat::CertDer, None)
            .map(|key| Self(Some(key)))
            .map_err(|_| E::Structure("keyinfo.certificate"))
    }
}

/// Signs the template's Signature at `signature_path` over the element at `element_path`; returns the document, and the
/// canonical SignedInfo that was signed.
pub(crate) fn sign(
    template: &str,
    element_path: &[usize],
    signature_path: &[usize],
    key: &mut Key,
) -> Result<(String, Vec<u8>), E> {
    let document = Document::parse(template.as_bytes())?;
    let element = document.element(element_path)?;
    let signature = document.element(signature_path)?;
    register_id(&document, element)?;
    with_context(key, Profile::default(), |context| {
        // SAFETY: context and signature node are live; libxmlsec1 writes into the document we own.
        let done = unsafe {
            (*context).flags |= c::XMLSEC_DSIG_FLAGS_STORE_SIGNATURE;
            c::xmlSecDSigCtxSign(context, signature)
        };
        if done != 0 {
            return Err(E::Unavailable("signing failed"));
        }
        // SAFETY: the buffer belongs to the live context.
        let input = unsafe { copied(c::xmlSecDSigCtxGetPreSignBuffer(context)) };
        Ok((document.dump()?, input.ok_or(E::Unavailable("pre-sign"))?))
    })
}

/// What a signature is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signed<'a> {
    /// The element at a path, by its ID; its Signature is its second child. A national issuer has more algorithms.
    Element { path: &'a [usize], id: &'a str, is_national: bool },
    /// The whole document, whose Signature is the root's second child.
    Document,
}

/// What a context takes besides the closed profile.
#[derive(Debug, Clone, Copy, Default)]
struct Profile {
    /// A whole document (SMP): inclusive canonicalization.
    whole: bool,
    /// SHA-384 and SHA-512.
    is_national: bool,
}

impl Signed<'_> {
    fn profile(self) -> Profile {
        match self {
            Self::Element { is_national, .. } => Profile { whole: false, is_national },
            Self::Document => Profile { whole: true, is_national: false },
        }
    }
}

/// Verifies a signature and returns the canonical bytes that were digested.
pub(crate) fn verify(message: &[u8], signed: Signed<'_>, key: &mut Key) -> Result<Vec<u8>, E> {
    let document = Document::parse(message)?;
    let signature = match signed {
        Signed::Element { path, id, .. } => {
            if register_id(&document, document.element(path)?)? != id {
                return Err(E::Structure("id.parser"));
            }
            document.element(&[path, &[1]].concat())?
        }
        Signed::Document => document.element(&[1])?,
    };
    with_context(key, signed.profile(), |context| {
        // SAFETY: context, its lists and the node are live for the whole closure; the buffer belongs to the context and
        // is copied out before the context goes.
        unsafe {
            if c::xmlSecDSigCtxVerify(context, signature) < 0 {
                return Err(E::Signature("not processed"));
            }
            if (*context).status != c::xmlSecDSigStatus_xmlSecDSigStatusSucceeded {
                return Err(E::Signature("does not verify"));
            }
            let references = &raw mut (*context).signedInfoReferences;
            if c::xmlSecPtrListGetSize(references) != 1 {
                return Err(E::Signature("references"));
            }
            let reference = c::xmlSecPtrListGetItem(references, 0) as *mut c::_xmlSecDSigReferenceCtx;
            if reference.is_null() || (*reference).status != c::xmlSecDSigStatus_xmlSecDSigStatusSucceeded {
                return Err(E::Signature("reference"));
            }
            copied(c::xmlSecDSigReferenceCtxGetPreDigestBuffer(reference)).ok_or(E::Signature("pre-digest"))
        }
    })
}

/// What a buffer of libxmlsec1 holds, unless it holds nothing.
///
/// # Safety
/// The buffer is null or live.
unsafe fn copied(buffer: c::xmlSecBufferPtr) -> Option<Vec<u8>> {
    if buffer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise; data and size are of one buffer, and a null or empty one is not read.
    unsafe {
        let (data, size) = (c::xmlSecBufferGetData(buffer), c::xmlSecBufferGetSize(buffer) as usize);
        (!data.is_null() && size != 0).then(|| std::slice::from_raw_parts(data, size).to_vec())
    }
}

/// A context with the closed profile and the key lent to it; the key comes back whatever happens.
fn with_context<T>(
    key: &mut Key,
    Profile { whole, is_national }: Profile,
    work: impl FnOnce(c::xmlSecDSigCtxPtr) -> Result<T, E>,
) -> Result<T, E> {
    let Some(lent) = key.0.take() else { return Err(E::Unavailable("key is in use")) };
    let mut context = XmlSecSignatureContext::new();
    context.insert_key(lent);
    // SAFETY: the pointer is the wrapper's own and lives as long as `context`; the class getters return statics.
    let result = unsafe {
        let raw = context.as_ptr();
        (*raw).enabledReferenceUris =
            if whole { c::xmlSecTransformUriTypeEmpty } else { c::xmlSecTransformUriTypeSameDocument };
        (*raw).flags = c::XMLSEC_DSIG_FLAGS_IGNORE_MANIFESTS | c::XMLSEC_DSIG_FLAGS_STORE_SIGNEDINFO_REFERENCES;
        let reference = [
            c::xmlSecTransformEnvelopedGetKlass(),
            c::xmlSecTransformExclC14NGetKlass(),
            c::xmlSecOpenSSLTransformSha256GetKlass(),
        ];
        let signature = [
            c::xmlSecTransformExclC14NGetKlass(),
            c::xmlSecOpenSSLTransformRsaSha256GetKlass(),
            c::xmlSecOpenSSLTransformEcdsaSha256GetKlass(),
        ];
        let inclusive = c::xmlSecTransformInclC14NGetKlass();
        let allowed = reference.iter().all(|t| c::xmlSecDSigCtxEnableReferenceTransform(raw, *t) == 0)
            && signature.iter().all(|t| c::xmlSecDSigCtxEnableSignatureTransform(raw, *t) == 0)
            && (!whole
                || c::xmlSecDSigCtxEnableReferenceTransform(raw, inclusive) == 0
                    && c::xmlSecDSigCtxEnableSignatureTransform(raw, inclusive) == 0);
        let digests = [c::xmlSecOpenSSLTransformSha384GetKlass(), c::xmlSecOpenSSLTransformSha512GetKlass()];
        let methods = [
            c::xmlSecOpenSSLTransformRsaSha384GetKlass(),
            c::xmlSecOpenSSLTransformRsaSha512GetKlass(),
            c::xmlSecOpenSSLTransformEcdsaSha384GetKlass(),
        ];
        let allowed = allowed
            && (!is_national
                || digests.iter().all(|t| c::xmlSecDSigCtxEnableReferenceTransform(raw, *t) == 0)
                    && methods.iter().all(|t| c::xmlSecDSigCtxEnableSignatureTransform(raw, *t) == 0));
        if allowed { work(raw) } else { Err(E::Unavailable("context")) }
    };
    key.0 = context.release_key();
    result
}

/// A libxml2 document, freed when dropped.
struct Document(c::xmlDocPtr);

impl Drop for Document {
    fn drop(&mut self) {
        // SAFETY: the pointer came from xmlReadMemory and is freed once.
        unsafe { c::xmlFreeDoc(self.0) }
    }
}

impl Document {
    /// Parses without network, entities, recovery; CDATA becomes text. The bytes were scanned before.
    fn parse(bytes: &[u8]) -> Result<Self, E> {
        quiet();
        let size = c_int::try_from(bytes.len()).map_err(|_| E::Structure("size"))?;
        let options = c::xmlParserOption_XML_PARSE_NONET
            | c::xmlParserOption_XML_PARSE_NOERROR
            | c::xmlParserOption_XML_PARSE_NOWARNING
            | c::xmlParserOption_XML_PARSE_NOCDATA;
        // SAFETY: pointer and length are of one live slice; libxml2 copies what it keeps.
        let document = unsafe { c::xmlReadMemory(bytes.as_ptr().cast(), size, null(), null(), options as c_int) };
        if document.is_null() { Err(E::Structure("xml")) } else { Ok(Self(document)) }
    }

    /// The element at a path of child-element indexes.
    fn element(&self, path: &[usize]) -> Result<c::xmlNodePtr, E> {
        // SAFETY: walks pointers of a live tree; null ends the walk.
        unsafe {
            let mut node = c::xmlDocGetRootElement(self.0);
            for index in path {
                if node.is_null() {
                    break;
                }
                node = c::xmlFirstElementChild(node);
                for _ in 0..*index {
                    if node.is_null() {
                        break;
                    }
                    node = c::xmlNextElementSibling(node);
                }
            }
            if node.is_null() { Err(E::Structure("path")) } else { Ok(node) }
        }
    }

    /// The root element as text.
    fn dump(&self) -> Result<String, E> {
        // SAFETY: the buffer is ours and freed; its content is valid until then.
        unsafe {
            let buffer = c::xmlBufferCreate();
            if buffer.is_null() {
                return Err(E::Unavailable("memory"));
            }
            let written = c::xmlNodeDump(buffer, self.0, c::xmlDocGetRootElement(self.0), 0, 0);
            let (data, size) = (c::xmlBufferContent(buffer), c::xmlBufferLength(buffer));
            let text = match (written, usize::try_from(size)) {
                (1.., Ok(size)) if !data.is_null() => {
                    String::from_utf8(std::slice::from_raw_parts(data, size).to_vec()).ok()
                }
                _ => None,
            };
            c::xmlBufferFree(buffer);
            text.ok_or(E::Unavailable("writing"))
        }
    }
}

/// Registers the element's own `ID` as the only ID of the document and returns it.
fn register_id(document: &Document, element: c::xmlNodePtr) -> Result<String, E> {
    // SAFETY: the element belongs to the live document; the attribute's value is copied before use.
    unsafe {
        let attribute = c::xmlHasProp(element, c"ID".as_ptr().cast());
        if attribute.is_null() || !(*attribute).ns.is_null() {
            return Err(E::Structure("id.missing"));
        }
        let text = (*attribute).children;
        if text.is_null() || !(*text).next.is_null() || (*text).content.is_null() {
            return Err(E::Structure("id.missing"));
        }
        let id = CStr::from_ptr((*text).content.cast()).to_str().map_err(|_| E::Structure("id.characters"))?.to_owned();
        // libxml2 registers xml:id by itself; such a one with our value would be found first.
        if !c::xmlGetID(document.0, (*text).content).is_null() {
            return Err(E::Structure("id.twice"));
        }
        if c::xmlAddID(null_mut(), document.0, (*text).content, attribute).is_null() {
            return Err(E::Structure("id.twice"));
        }
        Ok(id)
    }
}

unsafe extern "C" {
    fn xmlSecErrorsSetCallback(callback: Option<ErrorsCallback>);
}

type ErrorsCallback = unsafe extern "C" fn(
    *const std::ffi::c_char,
    c_int,
    *const std::ffi::c_char,
    *const std::ffi::c_char,
    *const std::ffi::c_char,
    c_int,
    *const std::ffi::c_char,
);

/// The libraries print to stderr, with content of messages: they must not.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Initialises the library before the callback is set.
        drop(XmlSecSignatureContext::new());
        // SAFETY: the setter stores a pointer to a function that lives for ever and touches nothing.
        unsafe { xmlSecErrorsSetCallback(Some(no_error)) };
    });
    // libxml2 keeps its handler by thread.
    thread_local!(static HERE: () = {
        // SAFETY: as above; the handler is this thread's own.
        unsafe { c::xmlSetStructuredErrorFunc(null_mut::<c_void>(), Some(no_structured_error)) };
    });
    HERE.with(|()| ());
}

unsafe extern "C" fn no_error(
    _: *const std::ffi::c_char,
    _: c_int,
    _: *const std::ffi::c_char,
    _: *const std::ffi::c_char,
    _: *const std::ffi::c_char,
    _: c_int,
    _: *const std::ffi::c_char,
) {
}

unsafe extern "C" fn no_structured_error(_: *mut c_void, _: c::xmlErrorPtr) {}
