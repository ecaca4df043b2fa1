import { useEffect, useState, type FormEvent } from 'react';
import type { GetServerSideProps } from 'next';
import { validateSessionWithCache } from '@studio/redis-native';
import { release } from '../lib/release';
import { tokenOf } from '../lib/session';

type Props = { person: { name: string; email: string; until: string } | null; release: string };

export const getServerSideProps: GetServerSideProps<Props> = async ({ req, res }) => {
  try {
    const session = await validateSessionWithCache(tokenOf(req));
    if (!session) return { redirect: { destination: '/sign-in', permanent: false } };
    const { email, firstName, lastName, expiresAt } = session;
    const name = [firstName, lastName].filter(Boolean).join(' ') || email;
    return { props: { person: { name, email, until: expiresAt.slice(0, 10) }, release } };
  } catch {
    // Nobody knows who this is. Sending them to sign in would be wrong.
    res.statusCode = 503;
    return { props: { person: null, release } };
  }
};

function Search() {
  const [found, setFound] = useState<string[] | null>(null);
  const [error, setError] = useState('');
  const [wait, setWait] = useState(0);

  useEffect(() => {
    if (wait === 0) return;
    const timer = setTimeout(() => setWait(wait - 1), 1000);
    return () => clearTimeout(timer);
  }, [wait]);

  async function search(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const wanted = new FormData(event.currentTarget).get('q') as string;
    const response = await fetch(`/api/search?q=${encodeURIComponent(wanted)}`);
    const body = await response.json();
    if (response.status === 429) return setWait(body.retryAfter);
    setError(response.ok ? '' : body.error);
    setFound(response.ok ? body.found : null);
  }

  return (
    <section className="card">
      <h2>Projects</h2>
      <form onSubmit={search} className="row">
        <input name="q" placeholder="Name of a project" aria-label="Name of a project" />
        <button disabled={wait > 0}>Search</button>
      </form>
      {wait > 0 && (
        <p role="alert">
          Too many searches. Please wait <strong>{wait} s</strong>.
        </p>
      )}
      {error && <p role="alert">{error}</p>}
      {found && wait === 0 && (
        <ul>
          {found.map((name) => (
            <li key={name}>{name}</li>
          ))}
          {found.length === 0 && <li>Nothing found.</li>}
        </ul>
      )}
    </section>
  );
}

export default function Home({ person, release }: Props) {
  if (!person) {
    return (
      <main className="narrow">
        <h1>Please try again in a moment.</h1>
      </main>
    );
  }
  return (
    <>
      <header>
        <strong>Studio</strong>
        <span className="quiet">{person.email}</span>
        <form method="post" action="/api/auth/sign-out">
          <button className="plain">Sign out</button>
        </form>
      </header>
      <main>
        <h1>Hello, {person.name}.</h1>
        <p className="quiet">You are signed in until {person.until}.</p>
        <Search />
        <footer className="quiet">{release}</footer>
      </main>
    </>
  );
}
