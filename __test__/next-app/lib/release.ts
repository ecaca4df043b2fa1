/** Which release answers: every route says it. */
export const release = 'release 0';
