import { useRouter } from 'next/router';

const ERRORS: Record<string, string> = {
  password: 'This is not the password of this address.',
  attempts: 'Too many attempts. Please try again in a few minutes.',
};

export default function SignIn() {
  const { error } = useRouter().query;
  return (
    <main className="narrow">
      <h1>Sign in to Studio</h1>
      <form method="post" action="/api/auth/sign-in" className="card">
        {typeof error === 'string' && <p role="alert">{ERRORS[error]}</p>}
        <label>
          Email
          <input name="email" type="email" autoComplete="username" required autoFocus />
        </label>
        <label>
          Password
          <input name="password" type="password" autoComplete="current-password" required />
        </label>
        <button>Sign in</button>
      </form>
    </main>
  );
}

// Rendered for each request: the error is part of its address.
export const getServerSideProps = async () => ({ props: {} });
