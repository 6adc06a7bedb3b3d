//! NCP-B towards other countries: Initiating Gateway and Initiating Imaging Gateway.
