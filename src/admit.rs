//! Admission: may this request run, and who pays?
