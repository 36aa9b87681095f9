//! One named test for each fault that use has shown, with the right outcome as its expectation.
