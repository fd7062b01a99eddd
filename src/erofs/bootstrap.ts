/**
 * Reader of a RAFS v6 bootstrap: an EROFS image whose file data lives in external devices (rafs.md 1).
 */
export {}
